-- Answers what is no gRPC on a path of gRPC. The server resets it, which the gateway would report as 503 of the track:
-- anybody could make a good track look bad. What is asked for is what the server asks for. The route has named a track,
-- which did not answer.
-- Strips the headers that only the mesh may set: Envoy's own, and those that later filters of the gateway set. Hides a
-- deadline of gRPC from the router, which would take the end of a client's patience for a failure of the pod. The
-- server gets it, or that of REST where it is later.
-- Says in gRPC's words what Envoy takes from those of HTTP: UNKNOWN for a body that is too large, and UNAVAILABLE,
-- which clients try again, for a time-out.
local set_here = {MINE}
local seconds = {H = 3600, M = 60, S = 1, m = 1e-3, u = 1e-6, n = 1e-9}
local most = MOST_SECONDS
local meant = {["2 Payload Too Large"] = "8", ["14 upstream request timeout"] = "4"}
local function speaks_grpc(headers)
  local kind = headers:get("content-type") or ""
  local proto = kind == "application/grpc" or string.find(kind, "^application/grpc[+;]") ~= nil
  return proto and headers:get("te") == "trailers"
end
function envoy_on_request(handle)
  local headers = handle:headers()
  local path = string.match(headers:get(":path") or "", "^[^?]*")
  if string.find(path, "/tensorflow.serving.", 1, true) ~= nil and not speaks_grpc(headers) then
    handle:streamInfo():dynamicMetadata():set("tfserving-canary", "refused", true)
    handle:respond({[":status"] = "415"}, "expected gRPC, with content-type application/grpc and te trailers")
    return
  end
  local gone = {}
  for name in pairs(headers) do
    if string.sub(name, 1, 8) == "x-envoy-" then
      gone[#gone + 1] = name
    end
  end
  for _, name in ipairs(gone) do
    headers:remove(name)
  end
  for _, name in ipairs(set_here) do
    headers:remove(name)
  end
  if string.sub(headers:get("content-type") or "", 1, 16) == "application/grpc" then
    local given = headers:get("grpc-timeout") or ""
    local number, unit = string.match(given, "^(%d+)([HMSmun])$")
    if number == nil or tonumber(number) * seconds[unit] > most then
      given = most .. "S"
    end
    headers:remove("grpc-timeout")
    headers:add("DEADLINE_HEADER", given)
  end
end
function envoy_on_response(handle)
  local headers = handle:headers()
  local said = handle:streamInfo():dynamicMetadata():get("tfserving-canary")
  if said ~= nil and said["refused"] then
    headers:remove("x-model-track")
  end
  local status = headers:get("grpc-status")
  if status ~= nil then
    headers:replace("grpc-status", meant[status .. " " .. (headers:get("grpc-message") or "")] or status)
  end
end
