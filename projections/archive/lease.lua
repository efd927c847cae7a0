-- Take, keep or give back the right to archive a partition. The clock is the server's: archivers' own may differ.
-- KEYS  archive (hash)
-- ARGV  token ('' to take, else the own one), for how long in ms (0 to give it back), a longer one in ms is of a clock
--         that was ahead, and void
-- Gives {token, all fields of the hash}, or {} if somebody else has it, or had it after the token given.
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local token, leased_until = unpack(redis.call('HMGET', KEYS[1], 'token', 'leased_until'))
if ARGV[1] == '' then
  if leased_until and tonumber(leased_until) > now and tonumber(leased_until) - now <= tonumber(ARGV[3]) then
    return {}
  end
  token = tostring(redis.call('HINCRBY', KEYS[1], 'token', 1))
elseif token ~= ARGV[1] then
  return {}
end
redis.call('HSET', KEYS[1], 'leased_until', string.format('%.0f', ARGV[2] == '0' and 0 or now + ARGV[2]))
return {token, redis.call('HGETALL', KEYS[1])}
