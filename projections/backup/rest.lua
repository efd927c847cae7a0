-- Read all rows of a library behind a stamp at one instant, unless they are too many.
-- KEYS  meta (only to be in the slot), the rows of every stored type
-- ARGV  the stamp, what the place of a row that waits has above its stamp, most rows
-- Gives {1, line, score, …}, or {0} if there are more.
local low, waits, most, found = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), {1}
local ranges = {{'(' .. ARGV[1], '(' .. ARGV[2]}, {string.format('(%.0f', waits + low), '+inf'}}
for key = 2, #KEYS do
  for _, range in ipairs(ranges) do
    local rows = redis.call('ZRANGEBYSCORE', KEYS[key], range[1], range[2], 'WITHSCORES', 'LIMIT', 0, most + 1)
    most = most - #rows / 2
    if most < 0 then
      return {0}
    end
    for _, each in ipairs(rows) do
      found[#found + 1] = each
    end
  end
end
return found
