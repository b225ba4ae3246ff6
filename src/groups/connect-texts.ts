// SPDX-License-Identifier: Apache-2.0

/** One export, as far as QEMU and libvirt care. */
export interface ConnectTarget {
  /** Differs between the exports of all groups: `ep-<8 hex>-<volume>`. */
  id: string;
  socket: string;
  queues: number;
  /** As the guest may name it. */
  targetDev: string;
}

/** Shared memory for vhost-user; an example size, in `-m` and in the object alike. */
const MEMORY_SIZE = '1G';

/** Arguments for a QEMU with this disk; see ExportAnswer for what is given once. */
export function qemuArgs(target: ConnectTarget): string[] {
  return [
    '-m',
    MEMORY_SIZE,
    '-object',
    `memory-backend-memfd,id=everpoint-mem,size=${MEMORY_SIZE},share=on`,
    '-numa',
    'node,memdev=everpoint-mem',
    '-chardev',
    `socket,id=${target.id},path=${escapeComma(target.socket)},reconnect=1`,
    '-device',
    `vhost-user-blk-pci,chardev=${target.id},num-queues=${target.queues}`,
  ];
}

/** A libvirt disk element, with a word on the memory that the domain needs. */
export function libvirtXml(target: ConnectTarget): string {
  return [
    '<!-- the domain needs: <memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking> -->',
    '<disk type="vhostuser" device="disk">',
    `  <driver name="qemu" type="raw" queues="${target.queues}"/>`,
    `  <source type="unix" path="${escapeXml(target.socket)}">`,
    '    <reconnect enabled="yes" timeout="1"/>',
    '  </source>',
    `  <target dev="${escapeXml(target.targetDev)}" bus="virtio"/>`,
    '</disk>',
  ].join('\n');
}

/** QEMU's options end at a comma; two of them stand for one. */
function escapeComma(text: string): string {
  return text.replaceAll(',', ',,');
}

function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
