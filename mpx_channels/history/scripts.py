"""What Redis does with a history, a script each, so that nothing comes in between.

The server is part of it. Replicas are a moment behind, so a server that takes another's place, or
its own after a restart, may give out offsets again that consumers have had. Its replication id is
another one then, and with that a new epoch begins, by whichever script notices it first. A script
cannot ask for the id each time (INFO takes longer than all the rest), and whoever calls it cannot
say, for a call may have waited for a connection, and leave over one to another server. So each
connection begins with `LEARN`, which asks and keeps it in a key.
"""

from __future__ import annotations

__all__ = ["LEARN", "LOOK", "PAGE", "PUBLISH", "SETTLE"]

# Where an ACL refuses INFO, all servers look the same: a failover is not noticed.
_LEARN = """
local function learn(key)
  local info = redis.pcall('INFO', 'replication')
  local id = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or 'unknown'
  redis.call('SET', key, id)
  return id
end
"""

LEARN = f"{_LEARN}\nlearn(KEYS[1])\n"

# `current` is the meta hash as {epoch, top, server, whether keys were used, the epoch before, where
# that ended}. One that was evicted begins anew, and the stream with it: XADD would refuse its
# offsets for ever. The sender makes two epochs differ that begin in one microsecond.
#
# `first` is the oldest offset of the last `size`. Some before them may not be trimmed yet: to trim
# whole nodes of a stream takes half the time.
_CURRENT = f"""{_LEARN}
local function begin(sender)
  local time = redis.call('TIME')
  return string.format('%013x', time[1] * 1000000 + time[2]) .. string.sub(sender, 1, 3)
end
local function current(stream, meta, keys, server, sender, life)
  local m = redis.call('HMGET', meta, 'e', 'o', 'r', 'k', 'pe', 'po')
  if not m[1] then
    redis.call('DEL', stream, keys)
    m = {{begin(sender), 0, server, false, false, false}}
    redis.call('HSET', meta, 'e', m[1], 'o', 0, 'r', server)
    redis.call('PEXPIRE', meta, life)
  elseif m[3] ~= server then
    m = {{begin(sender), m[2], server, m[4], m[1], m[2]}}
    redis.call('HSET', meta, 'e', m[1], 'r', server, 'pe', m[5], 'po', m[6])
    redis.call('PEXPIRE', meta, life)
  end
  return m
end
local function first(stream, top, size)
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not entry then return 0 end
  return math.max(tonumber(string.match(entry[1], '^%d+')), top - size + 1)
end
local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
end
local function given(entry)
  local data = field(entry, 'd')
  return {{string.sub(data, 3, 18), tonumber(string.match(entry[1], '^%d+')), -1}}
end
"""

_ONE = f"""{_CURRENT}
local server = redis.call('GET', KEYS[4]) or learn(KEYS[4])
local m = current(KEYS[1], KEYS[2], KEYS[3], server, ARGV[1], ARGV[2])
"""

# ARGV: the process, the meta's life (ms), the Redis channel, the envelope, size, ttl (ms), the
# sender's mark, the idempotency key. Returns epoch, offset, receivers; -1 if it was there already.
_KNOWN_KEY = """
local key = ARGV[8]
if key ~= '' then
  local at = redis.call('HGET', KEYS[3], key)
  local entry = at and redis.call('XRANGE', KEYS[1], at, at)[1]
  if entry and field(entry, 'k') == key then return given(entry) end
end
"""
# What may be refused comes first, so that it has not happened then: HSET where there is no memory,
# PUBLISH where an ACL forbids the channel.
_APPEND = """
local offset = m[2] + 1
local id = string.format('%.0f-0', offset)
local data = '\\193\\3' .. m[1] .. struct.pack('>I8', offset) .. ARGV[4]
redis.call('HSET', KEYS[2], 'o', offset)
local received = redis.pcall('PUBLISH', ARGV[3], data)
if type(received) == 'table' then
  redis.call('HSET', KEYS[2], 'o', m[2])
  return received
end
if m[4] or key ~= '' then
  local over = redis.call('XLEN', KEYS[1]) + 1 - ARGV[5]
  if over > 0 then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', over)) do
      local old = field(entry, 'k')
      if old and redis.call('HGET', KEYS[3], old) == entry[1] then
        redis.call('HDEL', KEYS[3], old)
      end
    end
  end
end
if not m[4] and key == '' then
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], id, 'd', data, 's', ARGV[7])
elseif key == '' then
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[5], id, 'd', data, 's', ARGV[7])
else
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[5], id, 'd', data, 's', ARGV[7], 'k', key)
  redis.call('HSET', KEYS[2], 'k', 1)
  redis.call('HSET', KEYS[3], key, id)
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
if m[4] or key ~= '' then redis.call('PEXPIRE', KEYS[3], ARGV[6]) end
if offset % 16 == 0 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return {m[1], offset, received}
"""

PUBLISH = _ONE + _KNOWN_KEY + _APPEND

# The answer to a PUBLISH was lost: find the sender's mark, or append now. ARGV[9] and ARGV[10] are
# the last position that the sender knew before; what came after that may be ours, and if some of
# it is not there any more, nobody can tell.
SETTLE = f"""{_ONE}{_KNOWN_KEY}
local seen = tonumber(ARGV[10])
if ARGV[9] == m[5] then
  if seen > tonumber(m[6]) then seen = tonumber(m[6]) end
elseif ARGV[9] ~= '' and ARGV[9] ~= m[1] then
  return 'unknown'
end
local from = string.format('(%.0f-0', seen)
while true do
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    if field(entry, 's') == ARGV[7] then return given(entry) end
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
    found[i + 1] = {{m[1], top, m[5] or '', tonumber(m[6] or 0), first(stream, top, size)}}
  end
end
return found
"""

# ARGV: the process, the meta's life, the size, the offset to begin behind, how many, how many bytes
# about. Returns the state, and the messages. They may be large, so the first few say how many more
# to read.
PAGE = f"""{_ONE}
local top, wanted, room = tonumber(m[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
local oldest = first(KEYS[1], top, ARGV[3])
local from = string.format('%.0f-0', math.max(tonumber(ARGV[4]) + 1, oldest))
local messages, size, step = {{}}, 0, 8
while #messages < wanted and size < room do
  step = math.min(step, wanted - #messages)
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', step)
  for _, entry in ipairs(entries) do
    messages[#messages + 1] = field(entry, 'd')
    size = size + #messages[#messages]
  end
  if #entries < step then break end
  from = '(' .. entries[step][1]
  step = math.max(1, math.floor((room - size) * #messages / size))
end
return {{m[1], top, m[5] or '', tonumber(m[6] or 0), oldest, messages}}
"""
