-- Try the commands that the ledger's scripts use, on a key that is gone again when this ends.
-- KEYS  the key
-- Gives the names of those that this user may not run. Only that a command is let in counts, not what it answers.
local tries = {
  { 'DEL' }, { 'EXISTS' }, { 'EXPIRE', 60 }, { 'GET' }, { 'SET', 1 }, { 'TYPE' },
  { 'HDEL', 'f' }, { 'HEXISTS', 'f' }, { 'HGET', 'f' }, { 'HGETALL' }, { 'HINCRBY', 'f', 1 }, { 'HKEYS' }, { 'HLEN' },
  { 'HMGET', 'f' }, { 'HSCAN', 0 }, { 'HSET', 'f', 1 }, { 'HSETNX', 'f', 1 },
  { 'LINDEX', 0 }, { 'LLEN' }, { 'LPOP' }, { 'LPUSH', 1 }, { 'LRANGE', 0, 1 }, { 'LTRIM', 0, 1 }, { 'RPUSH', 1 },
  { 'SADD', 'm' }, { 'SMEMBERS' },
  { 'XADD', '*', 'f', 'v' }, { 'XDEL', '1-1' }, { 'XLEN' }, { 'XRANGE', '-', '+', 'COUNT', 1 },
  { 'XREVRANGE', '+', '-', 'COUNT', 1 }, { 'XTRIM', 'MINID', 1 },
  { 'ZADD', 1, 'm' }, { 'ZCARD' }, { 'ZCOUNT', 0, 1 }, { 'ZMSCORE', 'm' }, { 'ZRANGE', 0, 1 },
  { 'ZRANGEBYLEX', '-', '+' }, { 'ZRANGEBYSCORE', 0, 1 }, { 'ZREM', 'm' }, { 'ZREMRANGEBYSCORE', 0, 1 },
  { 'ZSCAN', 0 }, { 'ZSCORE', 'm' },
}

local function refused(...)
  local reply = redis.pcall(...)
  local err = type(reply) == 'table' and reply.err
  return err and (string.find(err, 'NOPERM', 1, true) or string.find(err, 'ACL failure', 1, true)
    or string.find(err, "can't run this command", 1, true))
end

if refused('DEL', KEYS[1]) then return { 'del' } end -- nothing may be left behind
local missing = {}
if refused('TIME') then missing[1] = 'time' end
for _, try in ipairs(tries) do
  if refused(try[1], KEYS[1], unpack(try, 2)) then missing[#missing + 1] = string.lower(try[1]) end
  redis.call('DEL', KEYS[1])
end
return missing
