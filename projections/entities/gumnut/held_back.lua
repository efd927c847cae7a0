-- Notes which rows of a library are not sent, and takes such notes away, all or nothing.
--
-- KEYS  the notes of one library
-- ARGV  most notes of an entity type, the floor for what is dropped, then triples: `put` name value, `del` name '',
--       or `drop` name and the value it must still have (that raises the floor)
--
-- Returns the names that were not put because their entity type has the most already.

local notes, most = KEYS[1], tonumber(ARGV[1])
local refused, changed = {}, false

local function count(name, by)
  return redis.call('HINCRBY', notes, '#' .. string.match(name, '^[^|]*'), by)
end

for at = 3, #ARGV, 3 do
  local what, name, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local old = redis.call('HGET', notes, name)
  if what == 'put' then
    if old then
      if old ~= value then
        redis.call('HSET', notes, name, value)
        changed = true
      end
    elseif count(name, 1) > most then
      count(name, -1)
      refused[#refused + 1] = name
    else
      redis.call('HSET', notes, name, value)
      changed = true
    end
  elseif old and (what == 'del' or old == value) then
    redis.call('HDEL', notes, name)
    count(name, -1)
    changed = true
    if what == 'drop' and tonumber(ARGV[2]) > tonumber(redis.call('HGET', notes, '@floor') or 0) then
      redis.call('HSET', notes, '@floor', ARGV[2])
    end
  end
end
if changed then
  local now = redis.call('TIME')
  redis.call('HSET', notes, '@version', now[1] .. '.' .. now[2])
end
return refused
