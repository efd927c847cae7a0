-- Keep a credential for a session that lives.
-- KEYS  session (hash), credentials (hash)
-- ARGV  session id, the ciphertext to keep, the ciphertext it must replace ('' for any or none)
-- Gives 1 if it is kept, else 0.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
