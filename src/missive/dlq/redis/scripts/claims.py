"""The script that replaces claims of `once=`."""

from __future__ import annotations

# Replace each claim that has not changed. ARGV, for each claim: the key, the old value, the new value ('' to delete the
# claim), and the time from which it may be deleted. Returns the positions of the claims that have changed.
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
    "once": _ONCE,
}
