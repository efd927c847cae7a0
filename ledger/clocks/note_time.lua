-- Note how late it is, and jumps of the clock: time that nobody lived through while the ledger was served.
-- KEYS  the ledger's meta (hash)
-- ARGV  now in ms, a longer step is a jump (ms), what was noted last if nothing is in ms ('' for nothing), how many jumps
--         are kept
-- Gives {how far the clock stepped beyond that in ms, or 0; the jumps as `<from ms>:<how far ms>` with commas, oldest first}
-- Where there is no ledger, or it is being restored, nothing is written.
local noted, held = unpack(redis.call('HMGET', KEYS[1], 'noted_ms', 'jumps'))
local now, longest, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local last, jumps, step = tonumber(noted or ARGV[3]), {}, 0
for from, far in string.gmatch(held or '', '(%d+):(%d+)') do
  jumps[#jumps + 1] = {tonumber(from), tonumber(far)}
end
if last and now - last > longest then
  step = now - last
  jumps[#jumps + 1] = {last, step}
elseif last and last - now > longest then
  step = now - last
  local left = {}
  for _, jump in ipairs(jumps) do -- what of them lies behind the clock now never happened
    if jump[1] < now then
      left[#left + 1] = {jump[1], math.min(jump[2], now - jump[1])}
    end
  end
  jumps = left
end
while #jumps > most do -- as if the first had been as late as the second: what was seen before either lives longer
  local first = table.remove(jumps, 1)
  jumps[1][2] = jumps[1][2] + first[2]
end
local texts = {}
for i, jump in ipairs(jumps) do
  texts[i] = string.format('%.0f:%.0f', jump[1], jump[2])
end
local text = table.concat(texts, ',')
if redis.call('HEXISTS', KEYS[1], 'partitions') == 1 and redis.call('HEXISTS', KEYS[1], 'restoring') == 0 then
  if not last or now > last or step ~= 0 then
    redis.call('HSET', KEYS[1], 'noted_ms', string.format('%.0f', now))
  end
  if text ~= (held or '') then
    redis.call('HSET', KEYS[1], 'jumps', text)
  end
end
return {string.format('%.0f', step), text}
