/** A message on its way into the page: pasted, out of a file, or read from codes in pictures and before a camera. */
import { utf8Text } from '../../../attestation/bytes.ts'
import { Malformed } from '../../../attestation/errors.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { readMessage } from '../codes/message.ts'
import { type Picture, readCode } from '../codes/qr.ts'
import { SeriesReader } from '../codes/series.ts'
import { button, field, h } from './dom.ts'
import { FRIEND_FILE_CAP } from './kept.ts'

const PICTURE_CAP = 40 * 1024 * 1024
/** Pixels of the longer side; more costs time and reads no better. */
const PICTURE_SIDE = 1600
const CAMERA_SIDE = 1024
const FRAME_MILLISECONDS = 120

export type Incoming = Readonly<{
  /** `isFile`: it was a file of its own, neither pasted nor a code. */
  received: (message: Uint8Array, isFile: boolean) => void
  refuse: (error: unknown) => void
  say: (text: string) => void
}>

const megabytes = (size: number) => `${(size / 1024 / 1024).toFixed(1)} MB`

/** A message as a file holds it: its bytes, or its text. Throws Malformed. */
export async function readFile(file: Blob): Promise<Uint8Array> {
  if (file.size > FRIEND_FILE_CAP) {
    throw new Malformed(`a file of ${megabytes(file.size)}; nothing that belongs here is larger than 0.1 MB`, 'data')
  }
  const bytes = new Uint8Array(await file.arrayBuffer())
  if (bytes.length === 0) throw new Malformed('an empty file', 'data')
  const text = /^\s*(?:pod1\.|https?:|file:)/.test(utf8Text(bytes.subarray(0, 16)) ?? '') ? utf8Text(bytes) : null
  return text === null ? bytes : readMessage(text)
}

/** @param side the longer side that the picture is made smaller to */
function pixels(source: CanvasImageSource, width: number, height: number, side: number): Picture {
  const scale = Math.min(1, side / Math.max(width, height))
  const canvas = document.createElement('canvas')
  canvas.width = Math.max(1, Math.round(width * scale))
  canvas.height = Math.max(1, Math.round(height * scale))
  const context = canvas.getContext('2d', { willReadFrequently: true })
  if (context === null) throw new Malformed('this browser gives the page no pixels to look at', 'data')
  context.drawImage(source, 0, 0, canvas.width, canvas.height)
  return context.getImageData(0, 0, canvas.width, canvas.height)
}

async function readPicture(file: File): Promise<string> {
  if (file.size > PICTURE_CAP) throw new Malformed(`${file.name}: a picture of ${megabytes(file.size)}`, 'data')
  const bitmap = await createImageBitmap(file).catch(() => null)
  if (bitmap === null) throw new Malformed(`${file.name} is a picture that this browser cannot open`, 'data')
  const text = readCode(pixels(bitmap, bitmap.width, bitmap.height, PICTURE_SIDE), 'still')
  bitmap.close()
  if (text !== null) return text
  throw new Malformed(`no code was found in ${file.name}: photograph it straight, near and in good light`, 'data')
}

/** The three ways in. Codes that were read wait for the rest of their series as long as the element lives. */
export function take(p: Primitives, incoming: Incoming): HTMLElement {
  const { received, refuse, say } = incoming
  let reader = new SeriesReader(p)
  /** Returns whether the series is whole. A code that is a link or text by itself is taken, too. */
  const addCode = (text: string): boolean => {
    if (!text.startsWith('POD1:')) {
      received(readMessage(text), false)
      return true
    }
    const progress = reader.add(text)
    if (progress.done) {
      reader = new SeriesReader(p)
      received(progress.message, false)
      return true
    }
    const { have, count, missing } = progress
    say(`${have} of ${count} codes read. Missing: ${missing.join(', ')}.`)
    return false
  }

  const attempt = (act: () => Promise<void>) => void act().catch(refuse)
  const files = h('input', { type: 'file', multiple: true })
  files.addEventListener('change', () => {
    const chosen = [...(files.files ?? [])]
    files.value = ''
    attempt(async () => {
      for (const file of chosen) {
        if (!file.type.startsWith('image/')) received(await readFile(file), true)
        else if (addCode(await readPicture(file))) return
      }
    })
  })
  const pasted = h('textarea', { rows: '3', maxlength: '40000', spellcheck: 'false', autocomplete: 'off' })
  const usePasted = button('Use this text', () =>
    attempt(async () => {
      received(readMessage(pasted.value), false)
      pasted.value = ''
    }),
  )
  return h(
    'div',
    { class: 'take' },
    field('A file, or pictures of codes', files),
    field('A link or text that you were sent', pasted),
    h('div', { class: 'row' }, usePasted),
    camera(addCode, incoming, () => {
      reader = new SeriesReader(p)
    }),
  )
}

function camera(addCode: (text: string) => boolean, { refuse, say }: Incoming, anew: () => void): HTMLElement {
  const stage = h('div', { class: 'camera' })
  let stream: MediaStream | null = null
  const halt = () => {
    for (const track of stream?.getTracks() ?? []) track.stop()
    stream = null
    stage.replaceChildren()
    toggle.textContent = 'Scan with the camera'
  }
  const look = (video: HTMLVideoElement) => {
    if (!stage.isConnected) halt()
    if (stream === null) return
    const text =
      video.videoWidth === 0
        ? null
        : readCode(pixels(video, video.videoWidth, video.videoHeight, CAMERA_SIDE), 'camera')
    try {
      if (text !== null && addCode(text)) return halt()
    } catch (error) {
      refuse(error)
    }
    setTimeout(() => look(video), FRAME_MILLISECONDS)
  }
  const start = async () => {
    anew()
    const video = h('video', { muted: true, playsinline: true, 'aria-label': 'What the camera sees' })
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } })
      video.srcObject = stream
      await video.play()
    } catch {
      halt()
      throw new Malformed('the camera cannot be used: it is missing, busy, or not allowed for this page', 'data')
    }
    stage.replaceChildren(video)
    toggle.textContent = 'Stop the camera'
    say('Hold the codes before the camera.')
    look(video)
  }
  const toggle = button('Scan with the camera', () => (stream === null ? void start().catch(refuse) : halt()))
  return h('div', {}, h('div', { class: 'row' }, toggle), stage)
}
