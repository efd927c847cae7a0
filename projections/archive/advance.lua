-- Record that a partition is archived further, or that retention removed more of it.
-- KEYS  archive (hash), ended (hash), then of sessions that ended before the cut what was sent to them (lists)
-- ARGV  token, the floor this follows, number of fields and values, these, then those sessions
-- Gives 1, or 0 with nothing written if somebody else took the partition over, or its floor is another.
local token, floor = unpack(redis.call('HMGET', KEYS[1], 'token', 'floor'))
redis.call('HLEN', KEYS[2])
if token ~= ARGV[1] or (floor or '') ~= ARGV[2] then
  return 0
end
local last = 3 + ARGV[3]
redis.call('HSET', KEYS[1], unpack(ARGV, 4, last))
for i = 3, #KEYS do
  if redis.call('HDEL', KEYS[2], ARGV[last + i - 2]) == 1 then -- not of one that was resumed since
    redis.call('DEL', KEYS[i])
  end
end
return 1
