-- Find a user's ended sessions in one step of going through all of a partition's.
-- KEYS  ended (hash)
-- ARGV  cursor, how many to look at (about), user
-- Gives {next cursor, ids and values of those that may be the user's}: what is kept of a session ends with its user's name.
local found = {}
local reply = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local rows, user = reply[2], ARGV[3]
for i = 2, #rows, 2 do
  if string.sub(rows[i], -#user) == user then
    found[#found + 1] = rows[i - 1]
    found[#found + 1] = rows[i]
  end
end
return {reply[1], found}
