/** In the page: a sheet before the camera, by the modules that a page of ours uses. */
import { hex } from '../../attestation/bytes.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { encodeHeldShare } from '../../client/recovery/manifest.ts'
import { readSheetCode } from '../../client/recovery/scan.ts'
import { readCode } from '../../client/web/codes/qr.ts'

const p = webPrimitives()

/** The share that the camera came to see, or why what it saw is none. */
async function scan(): Promise<string> {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: { width: { ideal: 1280 }, height: { ideal: 720 } },
  })
  const video = document.createElement('video')
  video.muted = true
  video.srcObject = stream
  await video.play()
  const canvas = document.createElement('canvas')
  const context = canvas.getContext('2d', { willReadFrequently: true }) as CanvasRenderingContext2D
  try {
    for (;;) {
      canvas.width = video.videoWidth
      canvas.height = video.videoHeight
      context.drawImage(video, 0, 0)
      const text = readCode(context.getImageData(0, 0, canvas.width, canvas.height), 'camera')
      if (text !== null) return hex(encodeHeldShare(readSheetCode(p, text)))
      await new Promise(done => setTimeout(done, 100))
    }
  } catch (error) {
    return String(error)
  } finally {
    for (const track of stream.getTracks()) track.stop()
  }
}

Object.assign(globalThis, { scan })
