-- Note types of the protocol that apps asked for and this version does not know.
-- KEYS  the hash of them: name -> when it was asked for last, in us
-- ARGV  now in us, the oldest instant that is kept, how many names are kept at most, then the names
local kept = 0
local flat = redis.call('HGETALL', KEYS[1])
for at = 1, #flat, 2 do
  if tonumber(flat[at + 1]) < tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], flat[at])
  else
    kept = kept + 1
  end
end
for at = 4, #ARGV do
  local known = redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1
  if known or kept < tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[1])
    kept = kept + (known and 0 or 1)
  end
end
return kept
