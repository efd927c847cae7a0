-- Note in a user's record what is about to be taken for them, before it is: whoever clears the record up finds it all.
-- KEYS  identity record (hash)
-- ARGV  new token; then fields: a link and an address
-- Gives the token of each field, old or new, and then 1 if the record has an e-mail address, else 0.
-- A field holds '?' (wanted), '=' (taken) or '-' (being let go) and a token; who lets go and who wants anew have two.
local reply = {}
for i = 2, #ARGV do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if not value or value:sub(1, 1) == '-' then
    value = '?' .. ARGV[1]
    redis.call('HSET', KEYS[1], ARGV[i], value)
  end
  reply[#reply + 1] = value:sub(2)
end
reply[#reply + 1] = redis.call('HEXISTS', KEYS[1], 'email')
return reply
