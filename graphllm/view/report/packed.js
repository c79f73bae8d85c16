// The data, unpacked: see packed.py. Every place gets objects of its own, so that none can be changed for another.

function unpacked(document) {
  const { keys, pool, data } = document;
  const back = (node) => {
    if (!Array.isArray(node)) return node;
    if (node[0] === -2) return back(pool[node[1]]);
    if (node[0] === -1) return node.slice(1).map(back);
    const names = keys[node[0]], out = {};
    names.forEach((name, i) => Object.defineProperty(out, name, { value: back(node[i + 1]), writable: true, enumerable: true, configurable: true }));
    return out;
  };
  return back(data);
}
