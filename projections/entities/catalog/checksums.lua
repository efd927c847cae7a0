-- Finds the rows whose checksum changed, from a stamp on.
--
-- KEYS  meta (only to be in the slot), checksums, then for each form that has a checksum: ids, and the rows of each variant
-- ARGV  lower bound of the stamps (as ZRANGE reads it), most rows, then for each of these forms its name and its letters
--
-- Returns how many were found, the stamp of the last, and their lines.

local forms, key_at = {}, 3
for at = 3, #ARGV, 2 do
  local form = { ids = KEYS[key_at], rows = {} }
  for letter = 1, #ARGV[at + 1] do form.rows[string.sub(ARGV[at + 1], letter, letter)] = KEYS[key_at + letter] end
  forms[ARGV[at]] = form
  key_at = key_at + 1 + #ARGV[at + 1]
end

local members = redis.call('ZRANGE', KEYS[2], ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[2]), 'WITHSCORES')
local found = { #members / 2, members[#members] or '0' }
for at = 1, #members, 2 do
  local name, id = string.match(members[at], '^([^|]+)|(.+)$')
  local place = redis.call('HGET', forms[name].ids, id)
  local score = string.sub(place, 2)
  found[#found + 1] = redis.call('ZRANGEBYSCORE', forms[name].rows[string.sub(place, 1, 1)], score, score)[1]
end
return found
