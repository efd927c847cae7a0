-- Complete a user's record with what was taken, unless somebody cleared it up meanwhile.
-- KEYS  identity record (hash)
-- ARGV  link field and its token; address field and its token ('' and '': the user keeps the address on record);
--         now in ms; library if none is on record; then fields and values to set
-- Gives nothing if link or address are no longer wanted; else the record, and the address fields and tokens to let go.
local call = redis.call
for i = 1, 3, 2 do
  if ARGV[i] ~= '' then
    local value = call('HGET', KEYS[1], ARGV[i])
    if value ~= '?' .. ARGV[i + 1] and value ~= '=' .. ARGV[i + 1] then
      return false
    end
  end
end
for i = 1, 3, 2 do
  if ARGV[i] ~= '' then
    call('HSET', KEYS[1], ARGV[i], '=' .. ARGV[i + 1])
  end
end
call('HSETNX', KEYS[1], 'since_ms', ARGV[5])
call('HSETNX', KEYS[1], 'library', ARGV[6])
call('HSET', KEYS[1], 'seen_ms', ARGV[5], unpack(ARGV, 7))

local record, leaving = call('HGETALL', KEYS[1]), {}
for i = 1, #record, 2 do
  local field, value = record[i], record[i + 1]
  if ARGV[3] ~= '' and field ~= ARGV[3] and field:sub(1, 8) == 'address:' then
    call('HSET', KEYS[1], field, '-' .. value:sub(2))
    leaving[#leaving + 1] = field
    leaving[#leaving + 1] = value:sub(2)
  end
end
return {record, leaving}
