"""Lua functions that all scripts share: reading and writing a record together with its indexes.

A record is the hash `r:ID`. It is indexed by these sorted sets of ids:

- `status:STATUS` and `bucket:BUCKET:STATUS`, by the latest failure;
- `oldest:BUCKET:STATUS`, by the first failure;
- `closed:STATUS`, by the time of closing;
- `of:REPLAY:STATUS` and `left:REPLAY`;
- for queued and parked records `ready:SERVICE` and `ready:SERVICE:REPLAY`, by the time from which they can be leased;
- `lane:SERVICE:LANE`. Only the first record of a lane is in a `ready` set.

Lua never formats a number as text, because that would lose digits.
"""

from __future__ import annotations

NAMES = (
    "status", "service", "group", "bucket", "first", "last", "attempts", "replay", "due", "lane", "closed", "by", "why",
    "version", "arrival", "doc", "body", "assigned", "orphaned",
)  # fmt: skip
"""Fields of a record's hash. A lease adds `token` and `leased`. The field `rev` counts all changes."""

_HEAD = f"""
local P, call = KEYS[1] .. ':', redis.call
local NAMES = {{{", ".join(f"'{name}'" for name in NAMES)}}}
"""
_FUNCTIONS = """
local READ = {'status', 'service', 'group', 'bucket', 'first', 'last', 'attempts', 'replay', 'due', 'lane', 'closed',
  'version', 'arrival', 'token', 'leased', 'rev'}

local function read(id)
  local values = call('HMGET', P .. 'r:' .. id, unpack(READ))
  if not values[1] then return nil end
  local r = {id = id}
  for n, name in ipairs(READ) do r[name] = values[n] or nil end
  return r
end

-- Predicates

local function waits(r) return r.status == 'queued' or r.status == 'parked' end
local function is_closed(r) return r.status == 'resolved' or r.status == 'discarded' end
local function is_free(r, now)
  return r.status == 'dead' or (r.status == 'queued' and tonumber(r.leased or '0') <= tonumber(now))
end

-- Whether a command runs the replay of a queued record.
local function is_elsewhere(r)
  if r.status ~= 'queued' or not r.replay then return false end
  local of = call('HMGET', P .. 'replay:' .. r.replay, 'by_command', 'status')
  return of[1] == '1' and of[2] == 'running'
end

-- Offer a record to workers, or only to the command that runs its replay.
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

-- Let a record that now waits enter its lane, and offer the first record of the lane.
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

-- Let a record that no longer waits leave its lane, and offer the next record of the lane.
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

-- The field of its replay's counts in which a record counts, or nil.
local function part(r)
  local chosen = call('HGET', P .. 'replayed:' .. r.replay, r.id)
  if not chosen then return nil end
  if r.status == 'parked' then return 'failed' end
  if r.status ~= 'dead' then return r.status end
  return tonumber(r.attempts) > tonumber(chosen) and 'failed' or 'left'
end

-- Add a record to its indexes and counts (sign 1), or remove it from them (sign -1).
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

-- Change fields of a record, with its indexes. An empty string deletes a field.
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

-- Write the record that starts at ARGV[at]: its id, the description of its bucket, and the fields of its hash.
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

-- Count failures by day: triples of a fingerprint, a day and a number from ARGV[at] on.
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

-- Queue up to `count` records that a replay has left; return their number.
local function queue_left(replay, count)
  if count <= 0 then return 0 end
  local left = call('ZRANGE', P .. 'left:' .. replay, 0, count - 1)
  for _, id in ipairs(left) do change(read(id), {status = 'queued', due = '', token = '', leased = ''}) end
  if #left > 0 then call('HINCRBY', P .. 'replay:' .. replay, 'rev', 1) end
  return #left
end

-- Make up to `most` queued records of a replay dead if no lease holds them; `most` 0 means all. Return their number.
local function unqueue(replay, now, most)
  local count = 0
  for _, id in ipairs(call('ZRANGE', P .. 'of:' .. replay .. ':queued', 0, most - 1)) do
    local r = read(id)
    if is_free(r, now) then dead(r); count = count + 1 end
  end
  return count
end

-- Change fields of a replay. The set `paced` holds the replays that `advance` continues.
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

LIBRARY = _HEAD + _FUNCTIONS
