"""Scripts that write new records, and the script that reads a page of a set."""

from __future__ import annotations

# ARGV: the number of records. For each record: the `rev` that it must still have ('' for a new record), the id that its
# arrival must still have ('*' for any), the token and the end of its lease (or '' and ''), and the record. Then the
# failures by day. Returns 0 if a condition fails.
_PUT = """
local count, width = tonumber(ARGV[1]), WIDTH + 4
for n = 0, count - 1 do
  local at = 2 + n * width
  if (call('HGET', P .. 'r:' .. ARGV[at + 4], 'rev') or '') ~= ARGV[at] then return 0 end
  local arrival = ARGV[at + 5 + 15]
  if ARGV[at + 1] ~= '*' and (call('HGET', P .. 'arrivals', arrival) or '') ~= ARGV[at + 1] then return 0 end
end
for n = 0, count - 1 do
  local at = 2 + n * width
  local r = write(at + 4)
  if ARGV[at + 2] ~= '' then
    call('HSET', P .. 'r:' .. r.id, 'token', ARGV[at + 2], 'leased', ARGV[at + 3])
    r.leased = ARGV[at + 3]
    if is_first(r) then offer(r) end
  end
  if ARGV[at] == '' and r.arrival then call('HSET', P .. 'arrivals', r.arrival, r.id) end
end
count_days(2 + count * width)
return 1
"""

# ARGV: the number of records, the records, and the failures by day. Returns 0 if one of the ids exists.
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

# Return members of a set below a score and member, highest first. ARGV: the set, the score, the member, the limit.
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

SCRIPTS = {
    "put": _PUT,
    "import": _IMPORT,
    "page": _PAGE,
}
