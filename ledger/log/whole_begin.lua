-- Begin to rebuild a partition, or join those who do: from now on a session not found in it may only be missing.
-- KEYS  whole (string)
-- ARGV  what it says while this one rebuilds it, the copy that is over ('' for none)
-- Gives what it says now, that it is being copied if that is another copy than the one that is over; 1 if it was whole.
local says = redis.call('GET', KEYS[1])
if says and says ~= ARGV[2] and (string.sub(says, 1, 11) == 'rebuilding ' or string.sub(says, 1, 8) == 'copying ') then
  return {says, 0}
end
redis.call('SET', KEYS[1], ARGV[1])
return {ARGV[1], says == '1' and 1 or 0}
