"""What Redis does with a history, a script each, so that nothing comes in between.

The server is part of it. Replicas are a moment behind, so a server that takes another's place, or
its own after a restart, may give out offsets again that consumers have had. Its replication id is
another one then, and with that a new epoch begins, by whichever script notices it first. A script
cannot ask for the id each time (INFO takes longer than all the rest), and whoever calls it cannot
say, for a call may have waited for a connection, and leave over one to another server. So each
connection begins with `LEARN`, which asks and keeps it in a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["LEARN", "LOOK", "PAGE", "PUBLISH", "SETTLE", "Sources", "sources"]

# SET alone would be refused where memory is full. Forgotten after a day, it is asked for again.
# Where an ACL refuses INFO, all servers look alike: a failover is not noticed.
_LEARN = """
local function learn(key)
  local info = redis.pcall('INFO', 'replication')
  local id = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or 'unknown'
  redis.call('DEL', key)
  redis.call('SET', key, id, 'EX', 86400)
  return id
end
"""

# In a cluster a partition's data may come here from another shard, and nothing is lost then: the id
# comes with it. What the key has besides is where it was noted last: the node, its shard, and the
# id that was the node's own. Every script looks whether that was here, so that none runs unnoticed
# on a server that has just taken over, or on one that a command was sent on to. That costs a
# microsecond.
#
# The same shard and another id is a failover, or a restart with data. Servers before Redis 7.2 do
# not name their shards: then it is one if we were the replica of whoever had the data last.
_LEARN_IN_CLUSTER = """
local function told(what)
  local found = redis.pcall('CLUSTER', what)
  return type(found) == 'string' and found or '?'
end
local function learn(key)
  local info = redis.pcall('INFO', 'replication')
  if type(info) ~= 'string' then info = '' end
  local id = string.match(info, 'master_replid:(%w+)') or 'unknown'
  local before = string.match(info, 'master_replid2:(%w+)')
  local node, shard = told('MYID'), told('MYSHARDID')
  local noted = redis.call('GET', key) or ''
  local server, n, s, had = string.match(noted, '^(%S+) (%S+) (%S+) (%S+)$')
  local moved = n ~= node and had ~= before
  if shard ~= '?' and s ~= '?' then moved = shard ~= s end
  if not server or had ~= id and not moved then server = id end
  redis.call('DEL', key)
  redis.call('SET', key, table.concat({server, node, shard, id}, ' '), 'EX', 31536000)
  return server
end
local function server_in(key)
  local server, node = string.match(redis.call('GET', key) or '', '^(%S+) (%S+)')
  return node == told('MYID') and node ~= '?' and server or learn(key)
end
"""

LEARN = f"{_LEARN}\nlearn(KEYS[1])\n"

# `current` is the meta hash as {epoch, top, server, whether keys were used, the last 16 epochs that
# ended by failovers, and where}. One that was evicted begins anew, and the stream with it: XADD
# would refuse its offsets for ever. The sender makes two epochs differ that begin in one
# microsecond.
#
# An entry of a stream has the sender's mark as a field with the message as its value, and the field
# `k` with its idempotency key, if it has one.
#
# `first` is the oldest offset of the last `size`. Some before them may not be trimmed yet: to trim
# whole nodes of a stream takes half the time.
_CURRENT = f"""{_LEARN}
local function begin(sender)
  local time = redis.call('TIME')
  return string.format('%013x', time[1] * 1000000 + time[2]) .. string.sub(sender, 1, 3)
end
local function ended(m)
  return string.sub(string.format('%s-%015.0f ', m[1], m[2]) .. (m[5] or ''), 1, 16 * 33 - 1)
end
local function current(stream, meta, keys, server, sender, life)
  local m = redis.call('HMGET', meta, 'e', 'o', 'r', 'k', 'p')
  if not m[1] then
    redis.call('DEL', stream, keys)
    m = {{begin(sender), 0, server, false, false}}
    redis.call('HSET', meta, 'e', m[1], 'o', 0, 'r', server)
    redis.call('PEXPIRE', meta, life)
  elseif m[3] ~= server then
    m = {{begin(sender), m[2], server, m[4], ended(m)}}
    redis.call('HSET', meta, 'e', m[1], 'r', server, 'p', m[5])
    redis.call('PEXPIRE', meta, life)
  end
  return m
end
local function first(stream, top, size)
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not entry then return 0 end
  return math.max(tonumber(string.match(entry[1], '^%d+')), top - size + 1)
end
local function given(entry)
  local data = entry[2][2]
  return {{string.sub(data, 3, 18), tonumber(string.match(entry[1], '^%d+')), -1}}
end
"""

# ARGV: the meta's life (ms), the Redis channel, size, ttl (ms), the sender's mark, the envelope,
# the idempotency key. Return epoch, offset, receivers; -1 if it was there already.
#
# What most publishes are comes first, and makes as few calls as it can: each costs Redis about as
# much as a whole PUBLISH. What may be refused is done before anything else, so that nothing has
# happened then: HSET where there is no memory, PUBLISH where an ACL forbids the channel.
_AGAIN = """
local m = redis.call('HMGET', KEYS[2], 'e', 'o', 'r', 'k')
if ARGV[7] == '' and m[1] and not m[4] and m[3] == redis.call('GET', KEYS[4]) then
  local offset = m[2] + 1
  redis.call('HSET', KEYS[2], 'o', offset)
  local data = '\\193\\3' .. m[1] .. struct.pack('>I8', offset) .. ARGV[6]
  local received = redis.pcall('PUBLISH', ARGV[2], data)
  if type(received) == 'table' then
    redis.call('HSET', KEYS[2], 'o', m[2])
    return received
  end
  local id = offset .. '-0'
  local was = redis.call('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], id, ARGV[5], data)
  if not was then redis.call('XADD', KEYS[1], id, ARGV[5], data) end
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  if not was or offset % 16 == 0 then redis.call('PEXPIRE', KEYS[2], ARGV[1]) end
  return {m[1], offset, received}
end
"""

_TO_SEND = f"""{_CURRENT}
local server = redis.call('GET', KEYS[4]) or learn(KEYS[4])
local m = current(KEYS[1], KEYS[2], KEYS[3], server, ARGV[5], ARGV[1])
"""

# The hash of the keys has the field '' as well, to be there while there are messages: if it is not,
# it was evicted, and is made anew out of them.
_KNOWN_KEY = """
local key = ARGV[7]
local function keys_anew()
  local from = '-'
  redis.call('HSET', KEYS[3], '', '')
  repeat
    local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 100)
    for _, entry in ipairs(entries) do
      local old = entry[2][4]
      if old then redis.call('HSET', KEYS[3], old, entry[1]) end
      from = '(' .. entry[1]
    end
  until #entries < 100
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
if key ~= '' then
  local at = redis.call('HGET', KEYS[3], key)
  if not at and m[4] and not redis.call('HGET', KEYS[3], '') then
    keys_anew()
    at = redis.call('HGET', KEYS[3], key)
  end
  local entry = at and redis.call('XRANGE', KEYS[1], at, at)[1]
  if entry and entry[2][4] == key then return given(entry) end
end
"""
_APPEND = """
local offset = m[2] + 1
local id = string.format('%.0f-0', offset)
local data = '\\193\\3' .. m[1] .. struct.pack('>I8', offset) .. ARGV[6]
redis.call('HSET', KEYS[2], 'o', offset)
local received = redis.pcall('PUBLISH', ARGV[2], data)
if type(received) == 'table' then
  redis.call('HSET', KEYS[2], 'o', m[2])
  return received
end
if m[4] or key ~= '' then
  local over = redis.call('XLEN', KEYS[1]) + 1 - ARGV[3]
  if over > 0 then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', over)) do
      local old = entry[2][4]
      if old and redis.call('HGET', KEYS[3], old) == entry[1] then
        redis.call('HDEL', KEYS[3], old)
      end
    end
  end
end
if key == '' then
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], id, ARGV[5], data)
else
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], id, ARGV[5], data, 'k', key)
  redis.call('HSET', KEYS[2], 'k', 1)
  redis.call('HSET', KEYS[3], key, id, '', '')
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if m[4] or key ~= '' then redis.call('PEXPIRE', KEYS[3], ARGV[4]) end
if offset % 16 == 0 or redis.call('XLEN', KEYS[1]) == 1 then
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
return {m[1], offset, received}
"""

PUBLISH = _AGAIN + _TO_SEND + _KNOWN_KEY + _APPEND

# The answer to a PUBLISH was lost: find the sender's mark, or append now. ARGV[8] and ARGV[9] are
# the last position that the sender knew before; what came after that may be ours, and if some of
# it is not there any more, nobody can tell.
SETTLE = f"""{_TO_SEND}{_KNOWN_KEY}
local seen = tonumber(ARGV[9])
if ARGV[8] ~= '' and ARGV[8] ~= m[1] then
  local last = string.match(m[5] or '', ARGV[8] .. '%-(%d+)')
  if not last then return 'unknown' end
  seen = math.min(seen, tonumber(last))
end
local from = string.format('(%.0f-0', seen)
while true do
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    if entry[2][1] == ARGV[5] then return given(entry) end
  end
  if #entries < 100 then break end
  from = '(' .. entries[100][1]
end
local oldest = first(KEYS[1], 0, 0)
if tonumber(m[2]) > seen and (oldest == 0 or oldest > seen + 1) then return 'unknown' end
{_APPEND}"""

# KEYS: the server's, then three for each group. ARGV: the process, then the meta's life, the size
# and the known position of each. Returns for each 0 if it stands there still, else its state.
LOOK = f"""{_CURRENT}
local server = redis.call('GET', KEYS[1]) or learn(KEYS[1])
local found = {{}}
for i = 0, (#KEYS - 1) / 3 - 1 do
  local stream = KEYS[3 * i + 2]
  local life, size, known = ARGV[3 * i + 2], ARGV[3 * i + 3], ARGV[3 * i + 4]
  local m = current(stream, KEYS[3 * i + 3], KEYS[3 * i + 4], server, ARGV[1], life)
  if m[1] .. '-' .. m[2] == known then
    found[i + 1] = 0
  else
    local top = tonumber(m[2])
    found[i + 1] = {{m[1], top, m[5] or '', first(stream, top, size)}}
  end
end
return found
"""

# ARGV: the process, the meta's life, the size, the offset to begin behind, how many, how many bytes
# about. Returns the state, and the messages. They may be large, so the first few say how many more
# to read.
PAGE = f"""{_CURRENT}
local server = redis.call('GET', KEYS[4]) or learn(KEYS[4])
local m = current(KEYS[1], KEYS[2], KEYS[3], server, ARGV[1], ARGV[2])
local top, wanted, room = tonumber(m[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
local oldest = first(KEYS[1], top, ARGV[3])
local from = string.format('%.0f-0', math.max(tonumber(ARGV[4]) + 1, oldest))
local messages, size, step = {{}}, 0, 8
while #messages < wanted and size < room do
  step = math.min(step, wanted - #messages)
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', step)
  for _, entry in ipairs(entries) do
    messages[#messages + 1] = entry[2][2]
    size = size + #messages[#messages]
  end
  if #entries < step then break end
  from = '(' .. entries[step][1]
  step = math.max(1, math.floor((room - size) * #messages / size))
end
return {{m[1], top, m[5] or '', oldest, messages}}
"""


# How they get at the id, which in a cluster is more than to read a key.
_NOTED = re.compile(r"redis\.call\('GET', (KEYS\[\d\])\)(?: or learn\(\1\))?")


@dataclass(frozen=True, slots=True)
class Sources:
    """The scripts as a kind of Redis takes them."""

    learn: str
    look: str
    page: str
    publish: str
    settle: str


def sources(*, cluster: bool, sharded: bool) -> Sources:
    """Those for one server, or for a cluster; ``sharded``: they publish to sharded channels."""

    def adapted(source: str) -> str:
        if cluster:
            source = _LEARN_IN_CLUSTER + source.replace(_LEARN, "")
            source = _NOTED.sub(r"server_in(\1)", source)
        return source.replace("'PUBLISH'", "'SPUBLISH'") if sharded else source

    return Sources(*map(adapted, (LEARN, LOOK, PAGE, PUBLISH, SETTLE)))
