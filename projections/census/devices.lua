-- Read of sessions what tells how far they are.
-- KEYS  for each session its hash and its checkpoints (hash)
-- ARGV  the entity type whose checkpoint is read
-- Gives for each its library and that checkpoint, false for what is not there.
local found = {}
for at = 1, #KEYS, 2 do
  found[at] = redis.call('HGET', KEYS[at], 'library')
  found[at + 1] = redis.call('HGET', KEYS[at + 1], ARGV[1])
end
return found
