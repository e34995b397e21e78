-- Strips the headers that only the mesh may set: Envoy's own, and those that later filters of the gateway set.
local set_here = {MINE}
function envoy_on_request(handle)
  local headers = handle:headers()
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
end
