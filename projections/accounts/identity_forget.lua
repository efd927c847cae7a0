-- Remove from a user's record what was let go, unless it is wanted anew.
-- KEYS  identity record (hash)
-- ARGV  fields and their tokens
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == '-' .. ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 1
