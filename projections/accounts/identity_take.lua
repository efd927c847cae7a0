-- Take an identity or an e-mail address for a user, if it is nobody else's.
-- KEYS  the link of an identity, or an e-mail address (value)
-- ARGV  user, token
-- Gives the user who has it: nobody else's id has been written over.
local holder = redis.call('GET', KEYS[1])
holder = holder and holder:match('^[^ ]+') or ARGV[1]
if holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
end
return holder
