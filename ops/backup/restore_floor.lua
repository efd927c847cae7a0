-- Have new stream ids lie behind the archive's floor, whatever the server's clock says, in a stream that is not there.
-- KEYS  stream
-- ARGV  the floor
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], ARGV[1], 'floor', '')
  redis.call('XDEL', KEYS[1], ARGV[1])
end
return 1
