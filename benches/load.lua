-- What wrk sends, and what it says at the end: `wrk ... --script load.lua URL -- BODY-FILE [HEADER VALUE]...`.

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   file:close()
   for i = 2, #args, 2 do
      wrk.headers[args[i]] = args[i + 1]
   end
end

-- One line of JSON, times in microseconds.
function done(summary, latency)
   local errors = summary.errors
   io.write(
      string.format(
         '{"requests": %d, "duration": %d, "slow": %d, "refused": %d, "lost": %d}\n',
         summary.requests,
         summary.duration,
         latency:percentile(99),
         errors.status,
         errors.connect + errors.read + errors.write + errors.timeout
      )
   )
end
