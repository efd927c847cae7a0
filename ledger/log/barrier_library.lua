-- Write something of no meaning behind a library's rows, if this server has them; WAIT can then be asked for it.
-- KEYS  catalog meta (hash)
-- ARGV  the stamp up to which rows were written
-- Gives 1 if the catalog is at the stamp or beyond, else 0 with nothing written: another server became the primary.
local last = redis.call('HGET', KEYS[1], 'last')
if tonumber(last or 0) < tonumber(ARGV[1]) then
  return 0
end
if last then redis.call('HSET', KEYS[1], 'last', last) end
return 1
