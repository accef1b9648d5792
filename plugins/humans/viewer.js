/* Meshes that can be turned with the mouse, a finger or the arrow keys: all of a group together.
   A z-buffer of its own, so that it works without a graphics card, a library or a network. */
const MeshView = (() => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  function decode(mesh) {
    const steps = new Int16Array(bytes(mesh.vertices));
    const scale = mesh.extent / 32767;
    return {
      places: Float32Array.from(steps, (step) => step * scale),
      colours: new Uint8Array(bytes(mesh.colours)),
      faces: new Uint32Array(bytes(mesh.faces)),
      extent: mesh.extent,
    };
  }

  /* Turn the vertices: yaw about the vertical, then pitch about the picture's x axis, radians. */
  function turn(places, yaw, pitch) {
    const turned = new Float32Array(places.length);
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    for (let i = 0; i < places.length; i += 3) {
      const [x, y, z] = [places[i], places[i + 1], places[i + 2]];
      const depth = x * sy + z * cy;
      turned[i] = x * cy - z * sy;
      turned[i + 1] = y * cp - depth * sp;
      turned[i + 2] = y * sp + depth * cp;
    }
    return turned;
  }

  function normals(places, faces) {
    const sum = new Float32Array(places.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const u = [0, 1, 2].map((k) => places[b + k] - places[a + k]);
      const v = [0, 1, 2].map((k) => places[c + k] - places[a + k]);
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) sum[corner + k] += n[k];
    }
    return sum;
  }

  /* Brightness of each vertex under a light beside the camera. */
  function shades(towards) {
    const light = [-0.4, 0.6, 0.7].map((value) => value / Math.hypot(0.4, 0.6, 0.7));
    const shade = new Float32Array(towards.length / 3);
    for (let i = 0; i < shade.length; i++) {
      const n = towards.subarray(3 * i, 3 * i + 3);
      const cosine = (n[0] * light[0] + n[1] * light[1] + n[2] * light[2]) / (Math.hypot(...n) || 1);
      shade[i] = 0.55 + 0.45 * Math.max(0, cosine);
    }
    return shade;
  }

  /* RGBA pixels of a square picture, transparent where nothing is. */
  function draw(mesh, size, yaw, pitch) {
    const turned = turn(mesh.places, yaw, pitch);
    const shade = shades(normals(turned, mesh.faces));
    const pixels = new Uint8ClampedArray(4 * size * size);
    const depth = new Float32Array(size * size).fill(-Infinity);
    const half = size / 2;
    const x = (i) => (turned[3 * i] / mesh.extent + 1) * half;
    const y = (i) => (1 - turned[3 * i + 1] / mesh.extent) * half;
    for (let f = 0; f < mesh.faces.length; f += 3) {
      const corners = [mesh.faces[f], mesh.faces[f + 1], mesh.faces[f + 2]];
      const [ax, bx, cx] = corners.map(x);
      const [ay, by, cy] = corners.map(y);
      const area = (cx - ax) * (by - ay) - (bx - ax) * (cy - ay);
      if (area <= 1e-9) continue;
      const left = Math.max(0, Math.ceil(Math.min(ax, bx, cx) - 0.5));
      const right = Math.min(size - 1, Math.floor(Math.max(ax, bx, cx) - 0.5));
      const top = Math.max(0, Math.ceil(Math.min(ay, by, cy) - 0.5));
      const bottom = Math.min(size - 1, Math.floor(Math.max(ay, by, cy) - 0.5));
      for (let row = top; row <= bottom; row++) {
        for (let column = left; column <= right; column++) {
          const [px, py] = [column + 0.5, row + 0.5];
          const wa = ((cx - px) * (by - py) - (bx - px) * (cy - py)) / area;
          const wb = ((ax - px) * (cy - py) - (cx - px) * (ay - py)) / area;
          const weights = [wa, wb, 1 - wa - wb];
          if (weights.some((weight) => weight < 0)) continue;
          const mix = (value) => weights.reduce((sum, w, k) => sum + w * value(corners[k]), 0);
          const z = mix((i) => turned[3 * i + 2]);
          const at = row * size + column;
          if (z <= depth[at]) continue;
          depth[at] = z;
          for (let k = 0; k < 3; k++) pixels[4 * at + k] = mix((i) => mesh.colours[3 * i + k] * shade[i]);
          pixels[4 * at + 3] = 255;
        }
      }
    }
    return pixels;
  }

  /* A group: an element with canvases and, in a script of type application/json, their meshes. */
  function show(group) {
    const meshes = JSON.parse(group.querySelector("script").textContent).map(decode);
    const canvases = [...group.querySelectorAll("canvas")];
    let [yaw, pitch, waiting] = [0, 0, false];
    const paint = () => {
      waiting = false;
      canvases.forEach((canvas, i) => {
        const picture = new ImageData(draw(meshes[i], canvas.width, yaw, pitch), canvas.width);
        canvas.getContext("2d").putImageData(picture, 0, 0);
      });
    };
    const turnBy = (right, up) => {
      yaw += right;
      pitch = Math.max(-1.5, Math.min(1.5, pitch + up));
      if (!waiting) requestAnimationFrame(paint);
      waiting = true;
    };
    const keys = { ArrowLeft: [0.2, 0], ArrowRight: [-0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] };
    for (const canvas of canvases) {
      canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
      canvas.addEventListener("pointermove", (event) => {
        if (event.buttons) turnBy(-event.movementX / 80, event.movementY / 80);
      });
      canvas.addEventListener("keydown", (event) => {
        if (!(event.key in keys)) return;
        event.preventDefault();
        turnBy(...keys[event.key]);
      });
    }
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      paint();
    }).observe(group);
  }

  return { decode, draw, show };
})();
