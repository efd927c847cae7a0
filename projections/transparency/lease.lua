-- Take, keep or give back the right to write the log, which saves work and guards nothing: batches do.
-- KEYS  the ledger's meta (hash)
-- ARGV  token, for how long in ms (0 to give it back), a longer one in ms is of a clock that was ahead, and void
-- Gives 1 to who has it now; nobody has where there is no ledger, or one is being restored.
if redis.call('HEXISTS', KEYS[1], 'partitions') == 0 or redis.call('HEXISTS', KEYS[1], 'restoring') == 1 then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, leased_until = unpack(redis.call('HMGET', KEYS[1], 'proof_lease', 'proof_leased_until_ms'))
leased_until = tonumber(leased_until or '0')
if token and token ~= ARGV[1] and leased_until > now and leased_until - now <= tonumber(ARGV[3]) then
  return 0
end
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], 'proof_lease', 'proof_leased_until_ms')
else
  redis.call('HSET', KEYS[1], 'proof_lease', ARGV[1], 'proof_leased_until_ms', string.format('%.0f', now + ARGV[2]))
end
return 1
