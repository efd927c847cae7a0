-- Note in a user's record what is about to be let go.
-- KEYS  identity record (hash)
-- ARGV  'wanted': what was never completed, 'links': all links, 'all': everything, and drop the person's data;
--         then, for 'wanted', the fields and their tokens
-- Gives the fields and their tokens; nothing if there is no record.
local call = redis.call
local record, leaving = call('HGETALL', KEYS[1]), {}
local asked = {}
for i = 2, #ARGV, 2 do
  asked[ARGV[i]] = ARGV[i + 1]
end
if #record == 0 then
  return false
end
for i = 1, #record, 2 do
  local field, value = record[i], record[i + 1]
  local kind = field:match('^(%l+):')
  local state, token = value:sub(1, 1), value:sub(2)
  if not kind then
    if ARGV[1] == 'all' then
      call('HDEL', KEYS[1], field)
    end
  elseif ARGV[1] == 'all' or (ARGV[1] == 'links' and kind == 'link') or (asked[field] == token and state ~= '=') then
    call('HSET', KEYS[1], field, '-' .. token)
    leaving[#leaving + 1] = field
    leaving[#leaving + 1] = token
  end
end
return leaving
