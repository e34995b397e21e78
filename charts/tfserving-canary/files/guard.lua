-- Takes away what only the mesh may say: Envoy's own headers, and those that the gateway sets itself further on.
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
  if is_mine(headers:get(":authority")) then
    for _, name in ipairs(set_here) do
      headers:remove(name)
    end
  end
end
