-- Load a session: both its hashes at one instant, and note at most so often that it was seen.
-- KEYS  session hash, checkpoint hash, activity (sorted set)
-- ARGV  session id, now in ms, note it as seen if it was last seen before this (ms)
-- Gives {session fields, checkpoint fields}, both empty when there is no such session.
local session = redis.call('HGETALL', KEYS[1])
if #session == 0 then
  return {session, session}
end
local seen = redis.call('ZSCORE', KEYS[3], ARGV[1])
if tonumber(seen or 0) < tonumber(ARGV[3]) then
  redis.call('ZADD', KEYS[3], 'GT', ARGV[2], ARGV[1])
end
return {session, redis.call('HGETALL', KEYS[2])}
