-- Note who runs on a ledger, and raise the format that is written once nobody who runs is too old for it.
-- KEYS  the ledger's meta (hash)
-- ARGV  who notes itself ('' for nobody), the newest format it knows, its version, now in ms, for how long in ms,
--         the format to raise to (0: none), whether to raise it whoever runs ('1')
-- Gives the ledger's format, then who runs: name, newest format, version each. Where there is no ledger (0), or it is
--         being restored, nothing is written: an empty store stays empty.
local call, name = redis.call, KEYS[1]
local now, lease, target = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if tonumber(call('HGET', name, 'format') or 0) == 0 then
  return {0}
end
local fields, runs, oldest = call('HGETALL', name), {}, nil
for i = 1, #fields, 2 do
  local who = string.match(fields[i], '^runs:(.*)$')
  if who and who ~= ARGV[1] then
    local format, until_ms, version = string.match(fields[i + 1], '^(%d+) (%d+) (.*)$')
    if not format or tonumber(until_ms) <= now or tonumber(until_ms) > now + 2 * lease then
      call('HDEL', name, fields[i]) -- its time is over, or its clock was wrong
    else
      runs[#runs + 1], runs[#runs + 2], runs[#runs + 3] = who, format, version
      oldest = math.min(oldest or tonumber(format), tonumber(format))
    end
  end
end
if ARGV[1] ~= '' then
  call('HSET', name, 'runs:' .. ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + lease) .. ' ' .. ARGV[3])
  runs[#runs + 1], runs[#runs + 2], runs[#runs + 3] = ARGV[1], ARGV[2], ARGV[3]
  oldest = math.min(oldest or tonumber(ARGV[2]), tonumber(ARGV[2]))
end
local format = tonumber(call('HGET', name, 'format'))
if target > format and (ARGV[7] == '1' or not oldest or oldest >= target) then
  format = target
  call('HSET', name, 'format', string.format('%.0f', format))
end
return {format, unpack(runs)}
