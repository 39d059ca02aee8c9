/**
 * The format of every file in the state folder: `[label, version, body]` in the protocol's strict CBOR. Fields are
 * positional, so none can be unknown; a version from a newer program is refused by name, and the file left alone.
 */
import { Malformed, Refusal, Unsupported } from '../../attestation/errors.ts'
import { bytes, decode, encode, encodeAs, type Shape, struct, text, uint } from '../../attestation/wire.ts'
import type { StateFolder } from './folder.ts'

const FILE_CAP = 4 * 1024 * 1024
const envelope = struct([], { label: text({ max: 32 }), version: uint(), body: bytes({ max: FILE_CAP - 64 }) })

export type FileFormat<T> = Readonly<{
  name: string
  version: number
  shape: Shape<T>
}>

/** The path of a file for messages. */
const pathOf = (folder: StateFolder, name: string) => `${folder.path}/${name}`

export async function readFormat<T>(folder: StateFolder, format: FileFormat<T>): Promise<T | null> {
  const input = await folder.read(format.name)
  if (input === null) return null
  try {
    const { label, version, body } = decode(envelope, input, FILE_CAP)
    if (label !== `pas1-${format.name}`) throw new Malformed(`expected the label pas1-${format.name}, got ${label}`)
    if (version > format.version) throw newer(folder, format, version)
    if (version !== format.version) throw new Malformed(`no format ${version} of this file was ever written`)
    return decode(format.shape, body, FILE_CAP)
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    throw new Malformed(`${pathOf(folder, format.name)} is damaged: ${error.reason.detail}`, 'data')
  }
}

function newer(folder: StateFolder, format: FileFormat<unknown>, version: number): Refusal {
  const detail = `${pathOf(folder, format.name)} has format ${version}, this program reads up to ${format.version}: install a newer one`
  return new Unsupported('data', 'unsupported-version', detail)
}

export function writeFormat<T>(folder: StateFolder, format: FileFormat<T>, value: T): Promise<void> {
  return folder.write(format.name, encode([`pas1-${format.name}`, format.version, encodeAs(format.shape, value)]))
}
