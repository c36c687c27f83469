# Run on the bare files of packages, "$1": keeps the tools that
# OpenManage calls with the libraries they need, and drops the rest. There is no
# package manager, no interpreter and no shell but dash.
set -eu
root=$1
kept=$root.kept
rm -rf "$kept"
mkdir -p "$kept"

# keep copies a file, and what it is a link to, to the same place.
keep() {
	path=$1
	while :; do
		mkdir -p "$kept$(dirname "$path")"
		cp -a "$root$path" "$kept$path"
		[ -L "$root$path" ] || break
		target=$(readlink "$root$path")
		case $target in
		/*) path=$target ;;
		*) path=$(dirname "$path")/$target ;;
		esac
	done
}

# Debian's merged /usr: /bin, /lib and so on are links.
mkdir -p "$kept/usr/bin" "$kept/usr/sbin" "$kept/usr/lib" "$kept/usr/lib64"
for link in bin sbin lib lib64; do ln -s "usr/$link" "$kept/$link"; done
mkdir -p "$kept/etc/ssl/certs" "$kept/proc" "$kept/sys" "$kept/dev" "$kept/run" "$kept/tmp" "$kept/root" "$kept/var/lib" "$kept/mnt"
chmod 1777 "$kept/tmp"
ln -s /run "$kept/var/run"

loader=/usr/lib64/ld-linux-x86-64.so.2
for candidate in "$root"/usr/lib64/ld-linux-*.so.* "$root"/usr/lib/ld-linux-*.so.*; do
	[ -e "$candidate" ] && loader=${candidate#"$root"}
done

for tool in \
	bin/dash bin/cat bin/ls bin/cp bin/rm bin/mkdir bin/stat bin/df bin/du bin/dd \
	bin/mount bin/umount bin/findmnt bin/lsblk bin/mountpoint bin/nsenter bin/setpriv \
	sbin/losetup sbin/blkid sbin/blockdev sbin/wipefs sbin/fsck sbin/fsfreeze sbin/fstrim \
	sbin/mke2fs sbin/mkfs.ext4 sbin/e2fsck sbin/fsck.ext4 sbin/resize2fs sbin/tune2fs sbin/dumpe2fs sbin/debugfs sbin/e2image \
	sbin/mkfs.xfs sbin/xfs_repair sbin/fsck.xfs sbin/xfs_growfs sbin/xfs_db sbin/xfs_io sbin/xfs_admin sbin/xfs_info; do
	for path in "/usr/$tool" "/usr/sbin/${tool#*/}" "/usr/bin/${tool#*/}"; do
		[ -e "$root$path" ] || [ -L "$root$path" ] || continue
		keep "$path"
		# The loader lists what a program needs; it fails for scripts, which need nothing.
		chroot "$root" "$loader" --list "$path" 2>/dev/null |
			sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\) .*/\1/p'
		break
	done
done | sort -u >"$root.libraries"
while read -r library; do
	case $library in /usr/*) ;; *) library=/usr$library ;; esac
	keep "$library"
done <"$root.libraries"
keep "$loader"
ln -s dash "$kept/usr/bin/sh"
[ -e "$root/etc/mke2fs.conf" ] && cp -a "$root/etc/mke2fs.conf" "$kept/etc/"
cp -a "$root/usr/lib/os-release" "$kept/usr/lib/" && ln -s ../usr/lib/os-release "$kept/etc/os-release"

# What the packages' own scripts would have made.
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$kept/etc/ssl/certs/ca-certificates.crt"
echo 'root:x:0:0:root:/root:/bin/sh' >"$kept/etc/passwd"
echo 'root:x:0:' >"$kept/etc/group"

# The licences of what is kept go with it.
for file in "$root"/usr/share/doc/*/copyright; do
	[ -f "$file" ] || continue
	inside=${file#"$root"}
	mkdir -p "$kept${inside%/copyright}"
	cp -L "$file" "$kept$inside"
done
rm -rf "$root" "$root.libraries"
mv "$kept" "$root"
ldconfig -r "$root"
