-- Begin to restore into a partition that has no events, or go on with it.
-- KEYS  whole (string), stream
-- ARGV  what it says while its events are restored
-- Gives 1 if it says so, else 0.
local says = redis.call('GET', KEYS[1])
if says == ARGV[1] then
  return 1
end
if (says and says ~= '1') or redis.call('XLEN', KEYS[2]) > 0 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
