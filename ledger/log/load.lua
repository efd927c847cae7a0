-- Load a session: both its hashes at one instant, or that they are as they are known to be, and note at most so often
-- that it was seen.
-- KEYS  session hash, checkpoint hash, activity (sorted set), whole (string), ended (hash), broken (hash),
--         order (sorted set); then the session hashes of those that it belongs to
-- ARGV  session id, now in ms, note it as seen if it was last seen before this (ms), the seq that it is known at
--         ('' for not known), its hash, how many checkpoints it has there; the ids of those that it belongs to
-- Gives {session fields, checkpoint fields}, or 1 where they are as known: of that seq and hash, which is all that the
--         fields follow from; and without such a session {{}, {}, what is known of it}:
--         0 there is none, 1 it has ended, 2 it may be one that is not rebuilt yet, or one that it belongs to may be; of
--         those that it belongs to one has 3 ended, 4 expired.
local session, same
if ARGV[4] ~= '' then
  local seq, hash, head = unpack(redis.call('HMGET', KEYS[1], 'seq', 'hash', 'head'))
  same = seq == ARGV[4] and hash == ARGV[5] and head and redis.call('HLEN', KEYS[2]) == tonumber(ARGV[6])
end
if not same then
  session = redis.call('HGETALL', KEYS[1])
end
if not same and #session == 0 then
  local known = 0
  if redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 then
    known = 1
  elseif redis.call('GET', KEYS[4]) ~= '1' or redis.call('HEXISTS', KEYS[6], ARGV[1]) == 1 then
    known = 2
  end
  return {session, session, known}
end
local over = ancestor_over(8, 7, #KEYS - 7, tonumber(ARGV[2]), KEYS[5], KEYS[4])
if over then
  return {{}, {}, over == 'unknown' and 2 or over == 'ended' and 3 or 4}
end
local seen = redis.call('ZSCORE', KEYS[3], ARGV[1])
if tonumber(seen or 0) < tonumber(ARGV[3]) then
  redis.call('ZADD', KEYS[3], 'GT', ARGV[2], ARGV[1])
  local place = tonumber(redis.call('ZSCORE', KEYS[7], ARGV[1]) or 0)
  if place >= 2 ^ 44 and tonumber(ARGV[2]) > place - 2 ^ 44 then -- heard of since: placing.lua
    redis.call('ZADD', KEYS[7], string.format('%.0f', place - 2 ^ 43), ARGV[1])
  end
end
if same then
  return 1
end
return {session, redis.call('HGETALL', KEYS[2])}
