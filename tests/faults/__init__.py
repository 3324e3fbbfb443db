"""Faults against real servers and processes: what was sent, against what was received.

``python -m tests.faults`` runs it as a program; test_faults.py has the short selection.
"""
