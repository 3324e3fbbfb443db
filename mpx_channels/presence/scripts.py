"""What Redis does with presence, a script each, so that nothing comes in between.

A process writes how many connections an id has by way of it, and not that one came or went: to
write the same twice changes nothing, so a call whose answer was lost is simply made again. Whether
somebody joined or left is seen by the script that writes, and published by it: so all processes
hear the changes in the order in which they happened, and among the messages of the group.

Keys of a group, `KEYS[1]` to `[4]`:

- members: a hash, by id: how many connections, when it last joined (microseconds), and a record
  with the id and the info, which is all that is told of a member
- order: a sorted set of the ids, all with the score 0: so Redis has them in the order of their
  bytes, and pages are stable
- lingering: a sorted set, by the time (milliseconds) at which those leave that have no connection
- sums: a hash. `g`: the epoch, which tells whether the keys belong together; `n`, `c` and `l`:
  members, connections, and how many linger; `w` and `t`: when the last event was told, and how many
  members it told; and `p<process id>` of each process that holds members

`KEYS[5]` and `[6]` are for all groups of a place, which is a server:

- leases: a sorted set of processes, by the time until which they are taken to live. '' is the
  place's epoch, below 0: if it is another one, or gone, something was lost, and all processes look
  whether it was theirs
- due: a sorted set of groups, by the time at which the first of those that linger there leaves

`KEYS[7]` and `[8]` are of one process:

- held: a hash, what it holds of the group: connections by id, and under '' the epoch and the number
  of its last write, by which it sees whether a failover took something away
- groups: the set of the groups in which it holds members, for whoever finds it dead
"""

from __future__ import annotations

__all__ = ["CHUNK", "END", "READ", "RENEW", "SWEEP", "WRITE"]

# How many that linger, and how many of a dead process, one call looks at: a few milliseconds of the
# server's time.
CHUNK = 500

_NOW = """
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
"""

# ARGV: the group's channel, its name, up to how many members names are told, the keys' life (ms),
# the process of `KEYS[7]` and `[8]`.
#
# Where the sums do not agree with what is there, keys were evicted: what is left is worth nothing.
# Nothing is deleted in a group that is new. A script's first write is refused where memory is full,
# a DEL is not, and behind it everything would be allowed.
#
# `finish` tells what has changed. Of a group too large for names an event is a number, and there is
# one in a second: the caller makes up for what is owed. Causes are 0: left, 1: timeout, 2: crashed.
_BEGIN = f"""{_NOW}
local members, order, lingering, sums = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local leases, due = KEYS[5], KEYS[6]
local held, groups = KEYS[7], KEYS[8]
local channel, group, most, life = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local process = ARGV[5]
local s = redis.call('HMGET', sums, 'g', 'n', 'c', 'w', 't', 'l', 'p' .. process)
local epoch, n, connections = s[1], tonumber(s[2] or 0), tonumber(s[3] or 0)
local told_at, told = tonumber(s[4] or 0), tonumber(s[5] or -1)
local joined, left = {{}}, {{}}
if not epoch or redis.call('HLEN', members) ~= n or redis.call('ZCARD', order) ~= n
  or redis.call('ZCARD', lingering) ~= tonumber(s[6])
  or (s[7] and redis.call('EXISTS', held) == 0)
then
  if redis.call('EXISTS', members, order, lingering, sums) > 0 then
    redis.call('DEL', members, order, lingering, sums)
    redis.call('ZADD', leases, -us, '')
  end
  epoch, n, connections = string.format('%.0f', us), 0, 0
end
local function record(connections, at, data)
  return struct.pack('>I4I8', connections, at) .. data
end
local function gone(id, data, cause)
  redis.call('HDEL', members, id)
  redis.call('ZREM', order, id)
  redis.call('ZREM', lingering, id)
  n = n - 1
  left[#left + 1] = struct.pack('>BI4', cause, #data) .. data
end
local function has_left()
  redis.call('DEL', held)
  redis.call('HDEL', sums, 'p' .. process)
  redis.call('SREM', groups, group)
end
local function finish(tell)
  local owed = 0
  if #joined + #left > 0 or (tell and n ~= told) then
    if n > most then
      joined, left = {{}}, {{}}
      owed = math.max(0, told_at + 1000 - now)
    end
    if owed == 0 then
      local front = struct.pack('>I4I4I4', n, #joined, #left)
      redis.pcall('PUBLISH', channel,
        '\\193\\4' .. front .. table.concat(joined) .. table.concat(left))
      told_at, told = now, n
    end
  end
  local first = -1
  if n == 0 then
    redis.call('DEL', members, order, lingering, sums)
    redis.call('ZREM', due, group)
  else
    redis.call('HSET', sums, 'g', epoch, 'n', n, 'c', connections, 'w', told_at, 't', told,
      'l', redis.call('ZCARD', lingering))
    local next = redis.call('ZRANGE', lingering, 0, 0, 'WITHSCORES')
    if next[1] then
      first = math.max(0, next[2] - now)
      redis.call('ZADD', due, next[2], group)
    else
      redis.call('ZREM', due, group)
    end
  end
  for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], life) end
  return owed, first
end
"""

# The place's epoch; made where there is none.
_PLACE = """
local place = redis.call('ZSCORE', leases, '')
if not place then
  place = string.format('%.0f', -us)
  redis.call('ZADD', leases, place, '')
end
"""

# ARGV, further: the number of this write, the process' lease and the linger (ms), whether nobody is
# to be told who joins, how many names an id may have. Then for each id: these names, how many
# connections it has now, whether it left, when it joined (0 for now), and its record.
#
# An id has several names where it is encrypted, one for each key: the one that it has already
# counts, else the first.
#
# Return the place's epoch and the group's, what stood under '' in held, the time, how many ids this
# process holds here, what is owed, when the next of those that linger leaves (ms; -1 for none), and
# whether the process had a lease.
WRITE = f"""{_BEGIN}
local number, lease, linger = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local quiet, names = ARGV[9] == '1', tonumber(ARGV[10])
local mark = redis.call('HGET', held, '')
if redis.call('EXISTS', held) == 1 and (not mark or string.match(mark, '^%d+') ~= epoch) then
  redis.call('DEL', held)
end
for i = 11, #ARGV, names + 4 do
  local id = ARGV[i]
  if names > 1 then
    local at_held, at_members
    for j = i + names - 1, i, -1 do
      if redis.call('HEXISTS', held, ARGV[j]) == 1 then at_held = ARGV[j] end
      if redis.call('HEXISTS', members, ARGV[j]) == 1 then at_members = ARGV[j] end
    end
    id = at_held or at_members or id
  end
  local count, has_to_go = tonumber(ARGV[i + names]), ARGV[i + names + 1] == '1'
  local at, data = tonumber(ARGV[i + names + 2]), ARGV[i + names + 3]
  local was = redis.call('HGET', members, id)
  local old = was and tonumber(redis.call('HGET', held, id) or 0) or 0
  local total, was_at = 0, 0
  if was then
    total, was_at = struct.unpack('>I4I8', was)
    was = string.sub(was, 13)
  end
  local sum = total - old + count
  connections = connections - old + count
  if count > 0 then
    if at == 0 then at = us end
    if old ~= count then redis.call('HSET', held, id, count) end
    if not was then
      n = n + 1
      redis.call('ZADD', order, 0, id)
      if not quiet then joined[#joined + 1] = struct.pack('>I4', #data) .. data end
    else
      if total == 0 then redis.call('ZREM', lingering, id) end
      if was_at > at then at, data = was_at, was end
    end
    if data ~= was or sum ~= total or at ~= was_at then
      redis.call('HSET', members, id, record(sum, at, data))
    end
  else
    if old > 0 then redis.call('HDEL', held, id) end
    if was and sum > 0 and sum ~= total then
      redis.call('HSET', members, id, record(sum, was_at, was))
    elseif was and sum == 0 and has_to_go then
      gone(id, was, 0)
    elseif was and sum == 0 and total > 0 then
      if linger > 0 then
        redis.call('HSET', members, id, record(0, was_at, was))
        redis.call('ZADD', lingering, now + linger, id)
      else
        gone(id, was, 1)
      end
    end
  end
end
redis.call('HSET', held, '', epoch .. ' ' .. number)
local holds = redis.call('HLEN', held) - 1
if holds == 0 then
  has_left()
else
  redis.call('HSET', sums, 'p' .. process, 1)
  redis.call('SADD', groups, group)
end
{_PLACE}
local had = redis.call('ZSCORE', leases, process) and 1 or 0
if had == 0 then redis.call('ZADD', leases, now + lease, process) end
local owed, first = finish(false)
return {{place, epoch, mark or '', string.format('%.0f', us), holds, owed, first, had}}
"""

# Take out whom nobody holds any more: those that lingered, and those of a process whose lease has
# expired. One that has no lease gets one first: the key may have been evicted while it lives. But
# not one that holds nothing here: others have taken it out, and without a lease it learns of that.
#
# ARGV, further: whether the process is thought to be dead, its lease (ms), whether to tell how many
# there are: 1, 0, or the place's epoch, if it is to be told where that is another one. Return
# whether there is more to do, what is owed, and when the next leaves who lingers.
SWEEP = f"""{_BEGIN}
local overdue = redis.call('ZRANGEBYSCORE', lingering, 0, now, 'LIMIT', 0, {CHUNK})
for _, id in ipairs(overdue) do
  local was = redis.call('HGET', members, id)
  if was then gone(id, string.sub(was, 13), 1) else redis.call('ZREM', lingering, id) end
end
local more = #overdue == {CHUNK}
if ARGV[6] == '1' then
  local until_ = redis.call('ZSCORE', leases, process)
  if not until_ then
    if redis.call('EXISTS', held) == 1 then
      redis.call('ZADD', leases, now + ARGV[7], process)
    else
      has_left()
    end
  elseif tonumber(until_) <= now then
    local mark = redis.call('HGET', held, '')
    if mark and string.match(mark, '^%d+') == epoch then
      redis.call('HSET', held, '', epoch .. ' taken')
      local cursor, seen = '0', 0
      repeat
        local page = redis.call('HSCAN', held, cursor, 'COUNT', {CHUNK})
        cursor, seen = page[1], seen + #page[2] / 2
        for i = 1, #page[2], 2 do
          local id, old = page[2][i], tonumber(page[2][i + 1])
          if id ~= '' and redis.call('HDEL', held, id) == 1 then
            connections = connections - old
            local was = redis.call('HGET', members, id)
            if was then
              local total, at = struct.unpack('>I4I8', was)
              was = string.sub(was, 13)
              if total <= old then
                gone(id, was, 2)
              else
                redis.call('HSET', members, id, record(total - old, at, was))
              end
            end
          end
        end
      until cursor == '0' or seen >= {CHUNK}
      if redis.call('HLEN', held) > 1 then more = true else has_left() end
    else
      has_left()
    end
  end
end
local tell = ARGV[8] == '1'
if tonumber(ARGV[8]) < 0 then
  tell = tonumber(redis.call('ZSCORE', leases, '') or 0) ~= tonumber(ARGV[8])
end
local owed, first = finish(tell)
return {{more and 1 or 0, owed, first}}
"""

# KEYS: as above, without the last three. ARGV: the id behind which a page begins, with '(' before
# it, or '-'; how many, perhaps 0. Return members, connections, whether some have lingered for long
# enough, the processes whose leases have expired, the ids of the page, and their entries.
READ = f"""{_NOW}
local s = redis.call('HMGET', KEYS[4], 'n', 'c')
if not s[1] then return {{0, 0, 0, {{}}, {{}}, {{}}}} end
local overdue = redis.call('ZRANGEBYSCORE', KEYS[3], 0, now, 'LIMIT', 0, 1)
local dead = {{}}
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  if #field > 1 then
    local process = string.sub(field, 2)
    local until_ = redis.call('ZSCORE', KEYS[5], process)
    if not until_ or tonumber(until_) <= now then dead[#dead + 1] = process end
  end
end
local ids, entries = {{}}, {{}}
if ARGV[2] ~= '0' then
  ids = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
  if ids[1] then entries = redis.call('HMGET', KEYS[1], unpack(ids)) end
end
return {{tonumber(s[1]), tonumber(s[2]), #overdue, dead, ids, entries}}
"""

# KEYS: leases, due. ARGV: the process, its lease (ms), whether it may say that others are dead, the
# keys' life (ms), for how long (ms) a group may be overdue before others than its own process see
# to it. Return the place's epoch, whether the process had a lease (0: none, 1: yes, 2: an expired
# one), the processes that are dead, and the groups that are overdue.
#
# Whose lease expired although it lives was cut off, and perhaps all were: a server that was away
# for a minute is no reason to say that everybody has crashed. So all get another lease then.
RENEW = f"""{_NOW}
local leases, process, lease = KEYS[1], ARGV[1], tonumber(ARGV[2])
{_PLACE}
local had, was = 0, redis.call('ZSCORE', leases, process)
if was then had = tonumber(was) > now and 1 or 2 end
redis.call('ZADD', leases, now + lease, process)
local dead = redis.call('ZRANGEBYSCORE', leases, 0, now)
if had == 2 then
  for _, other in ipairs(dead) do redis.call('ZADD', leases, now + lease, other) end
end
if had == 2 or ARGV[3] ~= '1' then dead = {{}} end
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
local overdue = redis.call('ZRANGEBYSCORE', KEYS[2], 0, now - ARGV[5], 'LIMIT', 0, {CHUNK})
return {{place, had, dead, overdue}}
"""

# KEYS: leases, the groups of a process. ARGV: the process, whether its lease must have expired.
# Forget a process that holds nothing any more; return whether it is forgotten.
END = f"""{_NOW}
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local until_ = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[2] == '1' and until_ and tonumber(until_) > now then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""
