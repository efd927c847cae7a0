-- What load.lua and append.lua begin with: whether all sessions still live that one belongs to.
-- Gives nil if so, 'ended' or 'expired' for the first that does not, 'unknown' where it may not be rebuilt yet.
-- One that is stored nowhere although its partition is whole is damaged, and ends nobody.
-- What lasts longer by a token that was never used is left to who expires it.
local function ancestor_over(first, sids, count, now_ms, ended, whole)
  for i = 0, count - 1 do
    local name = KEYS[first + i]
    local user, expires, token, new = unpack(redis.call('HMGET', name, 'user', 'expires_at_us', 'token_expires_at_us',
      'new_tokens'))
    if not user then
      if redis.call('HEXISTS', ended, ARGV[sids + i]) == 1 then
        return 'ended'
      elseif redis.call('GET', whole) ~= '1' then
        return 'unknown'
      end
    elseif (expires and tonumber(expires) <= now_ms * 1000)
        or (token and not new and tonumber(token) <= now_ms * 1000) then
      return 'expired'
    end
  end
  return nil
end
