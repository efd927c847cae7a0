-- Keep where a reader of the feed stands, under its name.
-- KEYS  the hash of them: name -> when in us, a space, the position
-- ARGV  name, what is kept of it, how many names are kept at most
-- Gives 1; 0 if the name is new and there are so many already.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
