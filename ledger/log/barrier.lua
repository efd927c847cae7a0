-- Write something of no meaning behind a session's event, if this server has the event; WAIT can then be asked for it.
-- KEYS  session hash, ended (hash), barrier (string)
-- ARGV  session id, seq of the event, its hash
-- Gives 1 if the event or one after it is here, else 0 with nothing written.
local seq, hash = unpack(redis.call('HMGET', KEYS[1], 'seq', 'hash'))
local here
if seq then
  here = tonumber(seq) > tonumber(ARGV[2]) or (seq == ARGV[2] and hash == ARGV[3])
else
  here = redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1
end
if not here then
  return 0
end
redis.call('SET', KEYS[3], '1')
return 1
