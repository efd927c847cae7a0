-- Notes that the claim of a known user's identity names another user.
-- KEYS  the hash: user -> the user whom the claim names
-- ARGV  user, the other one, how many users are kept at most
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
