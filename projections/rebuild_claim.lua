-- Begin to copy into a partition that has no events, or take that back.
-- KEYS  whole (string), stream
-- ARGV  what it says while it is copied, 'begin' or 'undo'
-- Gives 1 if it says so (or does not any more), else 0.
local says = redis.call('GET', KEYS[1])
local empty = redis.call('XLEN', KEYS[2]) == 0
if ARGV[2] == 'undo' then
  if says == ARGV[1] and empty then
    redis.call('SET', KEYS[1], '1')
  end
  return 1
end
if says == ARGV[1] then
  return 1
end
if (says and says ~= '1') or not empty then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
