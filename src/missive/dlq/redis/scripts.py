"""Scripts that the server runs, each as one step: a record never changes without what it is found by.

A record is a hash `r:ID`. What it is found by, each a sorted set of ids: `status:STATUS` and `bucket:BUCKET:STATUS` by
when it failed last, `oldest:BUCKET:STATUS` by when it failed first, `closed:STATUS` by when it was closed,
`of:REPLAY:STATUS`, `left:REPLAY`, and for what waits to be taken up `ready:SERVICE` and `ready:SERVICE:REPLAY`, by when
it may be, and `lane:SERVICE:LANE`. Of a lane only the first is in a `ready` set. Numbers are never made text by Lua,
which would cut them.
"""

from __future__ import annotations

NAMES = (
    "status", "service", "group", "bucket", "first", "last", "attempts", "replay", "due", "lane", "closed", "by", "why",
    "version", "arrival", "doc", "body",
)  # fmt: skip
"""The fields of a record's hash, beside `token` and `leased` of a claim, and `rev`, which counts all changes."""

_HEAD = f"""
local P, call = KEYS[1] .. ':', redis.call
local NAMES = {{{", ".join(f"'{name}'" for name in NAMES)}}}
"""
_PRELUDE = """
local READ = {'status', 'service', 'group', 'bucket', 'first', 'last', 'attempts', 'replay', 'due', 'lane', 'closed',
  'version', 'arrival', 'token', 'leased', 'rev'}

local function read(id)
  local values = call('HMGET', P .. 'r:' .. id, unpack(READ))
  if not values[1] then return nil end
  local r = {id = id}
  for n, name in ipairs(READ) do r[name] = values[n] or nil end
  return r
end

local function waits(r) return r.status == 'queued' or r.status == 'parked' end
local function is_closed(r) return r.status == 'resolved' or r.status == 'discarded' end
local function is_free(r, now)
  return r.status == 'dead' or (r.status == 'queued' and tonumber(r.leased or '0') <= tonumber(now))
end

local function is_elsewhere(r)
  if r.status ~= 'queued' or not r.replay then return false end
  local of = call('HMGET', P .. 'replay:' .. r.replay, 'by_command', 'status')
  return of[1] == '1' and of[2] == 'running'
end

local function offer(r)
  local ready = r.due or '0'
  if tonumber(r.leased or '0') > tonumber(ready) then ready = r.leased end
  local set = P .. 'ready:' .. r.service
  if is_elsewhere(r) then call('ZREM', set, r.id) else call('ZADD', set, ready, r.id) end
  if r.status == 'queued' and r.replay then call('ZADD', set .. ':' .. r.replay, ready, r.id) end
end

local function withdraw(r)
  call('ZREM', P .. 'ready:' .. r.service, r.id)
  if r.replay then call('ZREM', P .. 'ready:' .. r.service .. ':' .. r.replay, r.id) end
end

local function lane_of(r) return P .. 'lane:' .. r.service .. ':' .. r.lane end

local function is_first(r)
  return not r.lane or call('ZRANGE', lane_of(r), 0, 0)[1] == r.id
end

local function enter(r)
  if r.lane then
    call('ZADD', lane_of(r), 0, r.id)
    call('HINCRBY', P .. 'lanes:' .. r.service, r.lane, 1)
    local first = call('ZRANGE', lane_of(r), 0, 1)
    if first[1] ~= r.id then return end
    if first[2] then withdraw(read(first[2])) end
  end
  offer(r)
end

local function leave(r)
  withdraw(r)
  if not r.lane then return end
  call('ZREM', lane_of(r), r.id)
  if call('HINCRBY', P .. 'lanes:' .. r.service, r.lane, -1) <= 0 then
    call('HDEL', P .. 'lanes:' .. r.service, r.lane)
  end
  local first = call('ZRANGE', lane_of(r), 0, 0)[1]
  if first then offer(read(first)) end
end

local function part(r)
  local chosen = call('HGET', P .. 'replayed:' .. r.replay, r.id)
  if not chosen then return nil end
  if r.status == 'parked' then return 'failed' end
  if r.status ~= 'dead' then return r.status end
  return tonumber(r.attempts) > tonumber(chosen) and 'failed' or 'left'
end

local function index(r, sign)
  local add = sign > 0
  local function set(key, score)
    if add then call('ZADD', P .. key, score, r.id) else call('ZREM', P .. key, r.id) end
  end
  set('status:' .. r.status, r.last)
  set('bucket:' .. r.bucket .. ':' .. r.status, r.last)
  set('oldest:' .. r.bucket .. ':' .. r.status, r.first)
  if add then
    local field = r.bucket .. ':' .. r.status
    local first = call('HGET', P .. 'first', field)
    if not first or tonumber(r.first) < tonumber(first) then call('HSET', P .. 'first', field, r.first) end
  end
  if is_closed(r) and r.closed then
    set('closed:' .. r.status, r.closed)
    if add and r.status == 'resolved' then
      local before = call('HGET', P .. 'resolved', r.group)
      if not before or tonumber(r.closed) > tonumber(before) then call('HSET', P .. 'resolved', r.group, r.closed) end
    end
  end
  if r.replay then
    set('of:' .. r.replay .. ':' .. r.status, r.last)
    local is = part(r)
    if is then
      call('HINCRBY', P .. 'counts:' .. r.replay, is, sign)
      if is == 'left' then set('left:' .. r.replay, '0') end
    end
  end
  if waits(r) then if add then enter(r) else leave(r) end end
end

local function change(r, changes)
  local key = P .. 'r:' .. r.id
  index(r, -1)
  for name, value in pairs(changes) do
    if value == '' then
      call('HDEL', key, name)
      r[name] = nil
    else
      call('HSET', key, name, value)
      r[name] = value
    end
  end
  call('HINCRBY', key, 'version', 1)
  call('HINCRBY', key, 'rev', 1)
  index(r, 1)
end

local function dead(r) change(r, {status = 'dead', token = '', leased = ''}) end

-- A record that ARGV has from `at`: its id, what its bucket is, and what its hash has.
local WIDTH = #NAMES + 2
local function write(at)
  local id, key, there, rev = ARGV[at], P .. 'r:' .. ARGV[at], read(ARGV[at]), '1'
  local fields = {}
  if there then
    index(there, -1)
    rev = call('HINCRBY', key, 'rev', 1)
    call('DEL', key)
  end
  for n, name in ipairs(NAMES) do
    local value = ARGV[at + 1 + n]
    if value ~= '' then fields[#fields + 1] = name; fields[#fields + 1] = value end
  end
  call('HSET', key, 'rev', rev, unpack(fields))
  local r = read(id)
  call('HSET', P .. 'buckets', r.bucket, ARGV[at + 1])
  index(r, 1)
  return r
end

local function count_days(at)
  for n = at, #ARGV, 3 do
    local key = P .. 'days:' .. ARGV[n]
    call('HINCRBY', key, ARGV[n + 1], ARGV[n + 2])
    call('EXPIRE', key, 864000)
    if call('HLEN', key) > 30 then
      for _, day in ipairs(call('HKEYS', key)) do
        if tonumber(day) < tonumber(ARGV[n + 1]) - 10 then call('HDEL', key, day) end
      end
    end
  end
end

local function note(id, text) call('RPUSH', P .. 'notes:' .. id, text) end

local function erase(r)
  index(r, -1)
  if r.arrival and call('HGET', P .. 'arrivals', r.arrival) == r.id then call('HDEL', P .. 'arrivals', r.arrival) end
  if r.replay then call('HDEL', P .. 'replayed:' .. r.replay, r.id) end
  call('DEL', P .. 'r:' .. r.id, P .. 'notes:' .. r.id)
end

local function queue_left(replay, count)
  if count <= 0 then return 0 end
  local left = call('ZRANGE', P .. 'left:' .. replay, 0, count - 1)
  for _, id in ipairs(left) do change(read(id), {status = 'queued', due = '', token = '', leased = ''}) end
  if #left > 0 then call('HINCRBY', P .. 'replay:' .. replay, 'rev', 1) end
  return #left
end

local function unqueue(replay, now, most)
  local count = 0
  for _, id in ipairs(call('ZRANGE', P .. 'of:' .. replay .. ':queued', 0, most - 1)) do
    local r = read(id)
    if is_free(r, now) then dead(r); count = count + 1 end
  end
  return count
end

-- Keeps who runs a replay: those of workers that are paced are looked at by `advance`.
local function set_replay(replay, changes)
  local key = P .. 'replay:' .. replay
  for n = 1, #changes, 2 do
    if changes[n + 1] == '' then call('HDEL', key, changes[n]) else call('HSET', key, changes[n], changes[n + 1]) end
  end
  call('HINCRBY', key, 'rev', 1)
  local is = call('HMGET', key, 'status', 'by_command', 'canary', 'rate', 'until_failures')
  if is[1] == 'running' and is[2] == '0' and (is[3] or is[4] or is[5]) then
    call('SADD', P .. 'paced', replay)
  else
    call('SREM', P .. 'paced', replay)
  end
end
"""

# ARGV: how many records there are, then of each: what its rev is to be ('' for none), what its arrival is to be known
# by ('*' for whatever it is), and the record; then days.
_PUT = """
local count, width = tonumber(ARGV[1]), WIDTH + 2
for n = 0, count - 1 do
  local at = 2 + n * width
  if (call('HGET', P .. 'r:' .. ARGV[at + 2], 'rev') or '') ~= ARGV[at] then return 0 end
  local arrival = ARGV[at + 3 + 15]
  if ARGV[at + 1] ~= '*' and (call('HGET', P .. 'arrivals', arrival) or '') ~= ARGV[at + 1] then return 0 end
end
for n = 0, count - 1 do
  local at = 2 + n * width
  local r = write(at + 2)
  if ARGV[at] == '' and r.arrival then call('HSET', P .. 'arrivals', r.arrival, r.id) end
end
count_days(2 + count * width)
return 1
"""

_IMPORT = """
local count = tonumber(ARGV[1])
for n = 0, count - 1 do
  if call('EXISTS', P .. 'r:' .. ARGV[2 + n * WIDTH]) == 1 then return 0 end
end
for n = 0, count - 1 do
  local r = write(2 + n * WIDTH)
  if r.arrival then call('HSETNX', P .. 'arrivals', r.arrival, r.id) end
end
count_days(2 + count * WIDTH)
return 1
"""

# Up to so many members of a set before a score and a member, the last first.
_PAGE = """
local set, score, member = P .. ARGV[1], tonumber(ARGV[2]), ARGV[3]
local low, high = 0, call('ZCARD', set)
while low < high do
  local middle = math.floor((low + high) / 2)
  local one = call('ZREVRANGE', set, middle, middle, 'WITHSCORES')
  local at = tonumber(one[2])
  if at < score or (at == score and one[1] < member) then high = middle else low = middle + 1 end
end
return call('ZREVRANGE', set, low, low + tonumber(ARGV[4]) - 1, 'WITHSCORES')
"""

_LEASE = """
local set, found = P .. 'ready:' .. ARGV[1], {}
if ARGV[2] ~= '' then set = set .. ':' .. ARGV[2] end
for _, id in ipairs(call('ZRANGEBYSCORE', set, '-inf', ARGV[4], 'LIMIT', 0, ARGV[6])) do
  local key, r = P .. 'r:' .. id, read(id)
  local of = ARGV[2] == '' and r.status == 'queued' and r.replay and call('HGET', P .. 'replay:' .. r.replay, 'status')
  if of == 'stopped' or of == 'cancelled' then
    change(r, {status = 'dead', token = '', leased = ''})
  else
    call('HSET', key, 'token', ARGV[3], 'leased', ARGV[5])
    call('HINCRBY', key, 'rev', 1)
    offer(read(id))
    found[#found + 1] = {id, call('HGETALL', key)}
  end
end
return found
"""

_OURS = """
local ours = {}
local function each(from, act)
  for n = from, #ARGV do
    local r = read(ARGV[n])
    if r and r.token == ARGV[1] then act(r); ours[#ours + 1] = r.id end
  end
  return ours
end
"""
_EXTEND = (
    _OURS
    + """
return each(3, function(r)
  call('HSET', P .. 'r:' .. r.id, 'leased', ARGV[2])
  r.leased = ARGV[2]
  if waits(r) and is_first(r) then offer(r) end
end)
"""
)
_RELEASE = (
    _OURS
    + """
return each(3, function(r)
  local key = P .. 'r:' .. r.id
  call('HDEL', key, 'token', 'leased')
  call('HINCRBY', key, 'rev', 1)
  r.token, r.leased = nil, nil
  if ARGV[2] ~= '' then
    call('HSET', key, 'due', ARGV[2])
    r.due = ARGV[2]
  end
  if waits(r) and is_first(r) then offer(r) end
end)
"""
)
_RESOLVE = (
    _OURS
    + """
return each(6, function(r)
  change(r, {status = ARGV[2], closed = ARGV[3], by = ARGV[4], why = ARGV[5], lane = '', token = '', leased = ''})
end)
"""
)

_COUNTING = """
local count = 0
local function each(from, act)
  for n = from, #ARGV do
    local r = read(ARGV[n])
    if r and act(r) then count = count + 1 end
  end
  return count
end
"""
_DISCARD = (
    _COUNTING
    + """
return each(4, function(r)
  if not is_free(r, ARGV[1]) then return false end
  change(r, {status = 'discarded', closed = ARGV[1], by = ARGV[2], why = ARGV[3], lane = '', token = '', leased = ''})
  return true
end)
"""
)
_RESTORE = (
    _COUNTING
    + """
return each(3, function(r)
  if not is_closed(r) then return false end
  local before = r.replay
  note(r.id, r.status == 'resolved' and ARGV[1] or ARGV[2])
  change(r, {status = 'dead', replay = '', closed = '', by = '', why = '', due = ''})
  if before then call('HDEL', P .. 'replayed:' .. before, r.id) end
  return true
end)
"""
)
_NOTE = (
    _COUNTING
    + """
return each(2, function(r)
  note(r.id, ARGV[1])
  return true
end)
"""
)

_EDIT = """
local r = read(ARGV[1])
if not r or r.version ~= ARGV[2] or r.status ~= 'dead' then return 0 end
change(r, {status = 'discarded', closed = ARGV[3], by = ARGV[4], why = ARGV[5], lane = '', token = '', leased = ''})
write(8)
note(r.id, ARGV[6])
note(ARGV[8], ARGV[7])
return 1
"""

# Deletes records that have a version still, and one of some statuses.
_DELETE = """
local count, allowed = 0, {}
for status in string.gmatch(ARGV[1], '%a+') do allowed[status] = true end
for n = 2, #ARGV, 2 do
  local r = read(ARGV[n])
  if r and r.version == ARGV[n + 1] and allowed[r.status] then erase(r); count = count + 1 end
end
return count
"""
# A replay that goes on by its counts, those of its canaries say, keeps what is counted. ARGV: a status, before when it
# was closed, and how many at the most; of those that are kept, ten times as many are walked past.
_EXPIRE = """
local most, count, kept = tonumber(ARGV[3]), 0, 0
while count < most and kept < 10 * most do
  local over = call('ZRANGEBYSCORE', P .. 'closed:' .. ARGV[1], '-inf', '(' .. ARGV[2], 'LIMIT', kept, most - count)
  if #over == 0 then break end
  for _, id in ipairs(over) do
    local r = read(id)
    if r.replay and call('SISMEMBER', P .. 'paced', r.replay) == 1 then
      kept = kept + 1
    else
      erase(r)
      count = count + 1
    end
  end
end
return count
"""

# The last of the steps that a replay begins with makes it one. ARGV: the replay, when it is, whether this is the last,
# how many the steps before had, what the replay is, and ids.
_START_REPLAY = """
local replay, now, total, from = ARGV[1], ARGV[2], tonumber(ARGV[4]), 6 + tonumber(ARGV[5])
for n = from, #ARGV do
  local r = read(ARGV[n])
  if r and is_free(r, now) then
    local before = r.replay
    call('HSET', P .. 'replayed:' .. replay, r.id, r.attempts)
    change(r, {status = 'dead', replay = replay, token = '', leased = ''})
    if before and before ~= replay then call('HDEL', P .. 'replayed:' .. before, r.id) end
    total = total + 1
  end
end
if ARGV[3] == '1' then
  call('ZADD', P .. 'replays', 0, replay)
  set_replay(replay, {'total', tostring(total), 'created_at', now, unpack(ARGV, 6, from - 1)})
end
return total
"""
_QUEUE_REMAINING = """
if call('HGET', P .. 'replay:' .. ARGV[1], 'status') ~= 'running' then return 0 end
return queue_left(ARGV[1], tonumber(ARGV[2]))
"""
_UNQUEUE = "return unqueue(ARGV[1], ARGV[2], tonumber(ARGV[3]))"

# ARGV: the replay, when it is, and what changes.
_SET_REPLAY = """
if call('EXISTS', P .. 'replay:' .. ARGV[1]) == 0 then return 0 end
set_replay(ARGV[1], {unpack(ARGV, 3)})
if call('HGET', P .. 'replay:' .. ARGV[1], 'status') ~= 'running' then unqueue(ARGV[1], ARGV[2], 0) end
for _, id in ipairs(call('ZRANGE', P .. 'of:' .. ARGV[1] .. ':queued', 0, -1)) do
  local r = read(id)
  if is_first(r) then offer(r) end
end
return 1
"""

# Does a step of a replay that is as it was when the step was thought of. ARGV: the replay, its rev, five counts, when
# it is, how many are queued, and what changes.
_STEP = """
local replay = ARGV[1]
if call('HGET', P .. 'replay:' .. replay, 'rev') ~= ARGV[2] then return 0 end
local counts = call('HMGET', P .. 'counts:' .. replay, 'queued', 'resolved', 'discarded', 'failed', 'left')
for n = 1, 5 do if (counts[n] or '0') ~= ARGV[2 + n] then return 0 end end
set_replay(replay, {unpack(ARGV, 10)})
if call('HGET', P .. 'replay:' .. replay, 'status') ~= 'running' then
  unqueue(replay, ARGV[8], 0)
else
  queue_left(replay, tonumber(ARGV[9]))
end
return 1
"""

# Claims of `once=`: each is kept in the place of another one, where that is there still. ARGV: key, what it was, what
# it is to be ('' for nothing) and from when on it may be forgotten, of each; returns which of them are another by now.
_ONCE = """
local others = {}
for n = 1, #ARGV, 4 do
  local key = P .. 'once:' .. ARGV[n]
  if (call('GET', key) or '') ~= ARGV[n + 1] then
    others[#others + 1] = (n - 1) / 4
  elseif ARGV[n + 2] == '' then
    call('DEL', key)
    call('ZREM', P .. 'once', ARGV[n])
  else
    call('SET', key, ARGV[n + 2])
    call('ZADD', P .. 'once', ARGV[n + 3], ARGV[n])
  end
end
return others
"""

SCRIPTS = {
    name: _HEAD + _PRELUDE + body
    for name, body in {
        "put": _PUT,
        "import": _IMPORT,
        "page": _PAGE,
        "lease": _LEASE,
        "extend": _EXTEND,
        "release": _RELEASE,
        "resolve": _RESOLVE,
        "discard": _DISCARD,
        "restore": _RESTORE,
        "note": _NOTE,
        "edit": _EDIT,
        "delete": _DELETE,
        "expire": _EXPIRE,
        "start_replay": _START_REPLAY,
        "queue_remaining": _QUEUE_REMAINING,
        "unqueue": _UNQUEUE,
        "set_replay": _SET_REPLAY,
        "step": _STEP,
        "once": _ONCE,
    }.items()
}
