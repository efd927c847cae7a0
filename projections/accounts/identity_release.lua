-- Give up an identity or an e-mail address, if it is still held by this user under this token.
-- KEYS  the link of an identity, or an e-mail address (value)
-- ARGV  user, token
if redis.call('GET', KEYS[1]) == ARGV[1] .. ' ' .. ARGV[2] then
  redis.call('DEL', KEYS[1])
end
return 1
