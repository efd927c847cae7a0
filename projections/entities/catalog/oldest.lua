-- Tell which sorted sets of a library have a member below a score: of which there is anything to purge.
-- KEYS  sorted sets
-- ARGV  the score (exclusive)
-- Gives their places among the keys, from 1.
local found = {}
for place, name in ipairs(KEYS) do
  local oldest = redis.call('ZRANGE', name, 0, 0, 'WITHSCORES')
  if oldest[2] and tonumber(oldest[2]) < tonumber(ARGV[1]) then
    found[#found + 1] = place
  end
end
return found
