-- Delete keys that are of another type than they must be.
-- KEYS  the keys
-- ARGV  the type of each
-- Gives how many were deleted.
local dropped = 0
for i, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and found ~= ARGV[i] then
    dropped = dropped + redis.call('DEL', key)
  end
end
return dropped
