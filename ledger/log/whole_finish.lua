-- Say that a partition is whole, if nobody deleted its projections since its rebuild began: they go with this key.
-- KEYS  whole (string)
-- ARGV  what it said when the rebuild began
-- Gives 1 if it is whole now.
local says = redis.call('GET', KEYS[1])
if says == ARGV[1] then
  redis.call('SET', KEYS[1], '1')
  return 1
end
return says == '1' and 1 or 0
