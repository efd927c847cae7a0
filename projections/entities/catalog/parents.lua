-- Looks up ids of several forms at one moment.
--
-- KEYS  meta (only to be in the slot), then the ids of each form
-- ARGV  for each form: how many ids, then the ids
--
-- Returns for each id, in this order, what the form's ids hold for it.

local found, at = {}, 1
for key = 2, #KEYS do
  local count = tonumber(ARGV[at])
  for id = at + 1, at + count do found[#found + 1] = redis.call('HGET', KEYS[key], ARGV[id]) end
  at = at + 1 + count
end
return found
