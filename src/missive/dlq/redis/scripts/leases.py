"""Scripts that lease records, and that extend, release and resolve leased records."""

from __future__ import annotations

# ARGV: the service, the replay or '', the token, the time, the end of the lease, the limit.
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

# ARGV: the service, the time, the end of a new lease, the plausible lead of a clock, the limit.
_BRING_BACK = """
local now, most = tonumber(ARGV[2]), tonumber(ARGV[3]) + tonumber(ARGV[4])
local found = call('ZRANGEBYSCORE', P .. 'ready:' .. ARGV[1], '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[5])
for _, id in ipairs(found) do
  local key, r = P .. 'r:' .. id, read(id)
  if r.token then
    if tonumber(r.leased or '0') > most then
      r.leased = ARGV[3]
      call('HSET', key, 'leased', r.leased)
      call('HINCRBY', key, 'rev', 1)
      offer(r)
    end
  elseif r.due and tonumber(r.last) > now + tonumber(ARGV[4]) and tonumber(r.due) > now + tonumber(ARGV[4]) then
    r.due = string.format('%.6f', now + math.max(0, tonumber(r.due) - tonumber(r.last)))
    r.last = ARGV[2]
    call('HSET', key, 'due', r.due, 'last', r.last)
    call('HINCRBY', key, 'rev', 1)
    call('ZADD', P .. 'status:' .. r.status, r.last, id)
    call('ZADD', P .. 'bucket:' .. r.bucket .. ':' .. r.status, r.last, id)
    offer(r)
  end
end
"""

# ARGV: the service, the replay or '', the time, the limit. Then the handlers, each with its due time.
_POSTPONE = """
local set, due, handlers, moved = P .. 'ready:' .. ARGV[1], {}, {}, 0
if ARGV[2] ~= '' then set = set .. ':' .. ARGV[2] end
for n = 5, #ARGV, 2 do due[ARGV[n]] = ARGV[n + 1] end
for _, id in ipairs(call('ZRANGEBYSCORE', set, '-inf', ARGV[3], 'LIMIT', 0, ARGV[4])) do
  local r = read(id)
  if handlers[r.bucket] == nil then
    handlers[r.bucket] = cjson.decode(call('HGET', P .. 'buckets', r.bucket))[5]
  end
  local at = due[handlers[r.bucket]]
  if at then
    call('HSET', P .. 'r:' .. id, 'due', at)
    call('HINCRBY', P .. 'r:' .. id, 'rev', 1)
    r.due = at
    offer(r)
    moved = moved + 1
  end
end
return moved
"""

# The scripts below act on the records that the token ARGV[1] still holds, and return their ids.
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

SCRIPTS = {
    "bring_back": _BRING_BACK,
    "lease": _LEASE,
    "postpone": _POSTPONE,
    "extend": _EXTEND,
    "release": _RELEASE,
    "resolve": _RESOLVE,
}
