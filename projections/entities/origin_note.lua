-- Note how far an origin of the source is written.
-- KEYS  the ledger's origins (hash)
-- ARGV  the number of the newest origin as the caller knows it, the number of this one, how far it is written,
--         what is on record of it from now on ('' to leave it)
-- Gives {the number of the newest origin, how far this one was written before}; nothing is written where the caller
--         does not know the newest. What was about to be taken waits anew: the source is the one before. But once it was
--         found to be as it was earlier, it stays so, however far it is written until that is taken: then no number is
--         beyond what is given.
local call, name = redis.call, KEYS[1]
local newest = call('HGET', name, 'newest') or '0'
if newest ~= ARGV[1] then
  return {newest, '0'}
end
local noted = call('HGET', name, 'written:' .. ARGV[2]) or '0'
if string.match(call('HGET', name, 'pending') or '', '^%d+ back:(%d+)$') == ARGV[2] then
  return {newest, '9223372036854775807'}
end
if tonumber(ARGV[3]) > tonumber(noted) then
  call('HSET', name, 'written:' .. ARGV[2], ARGV[3])
end
if tonumber(ARGV[3]) >= tonumber(noted) then
  call('HDEL', name, 'pending')
end
if ARGV[4] ~= '' then
  call('HSET', name, 'record:' .. ARGV[2], ARGV[4])
end
return {newest, noted}
