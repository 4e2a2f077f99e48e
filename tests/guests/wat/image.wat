;; A plugin of every kind that gives back whatever bytes it was configured with.
;;
;; The configuration is a letter and then the bytes, each as two letters from `a` (0) to `p` (15), the
;; high half first. They are laid at address 0, and every function returns a pointer to address 0: the
;; host reads its results out of them. After the letter `c` the configuration's own result is read
;; there too. `L` lets each call write a log line first, of which level, address and length are the
;; three words at 256.
(module
  (import "aligner:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  ;; 0: the bytes. 65536: what describes the plugin; zeros from 66048 on. 131072: what the host copies in.
  (memory (export "memory") 3)
  (global $free (mut i32) (i32.const 131072))
  (global $logs (mut i32) (i32.const 0))

  (data (i32.const 65536)
    "\80\00\01\00\05\00\00\00" ;; name
    "\88\00\01\00\05\00\00\00" ;; version
    "\90\00\01\00\05\00\00\00" ;; summary
    "\80\00\01\00\00\00\00\00" ;; config-schema
    "\80\00\01\00\00\00\00\00") ;; needs
  (data (i32.const 65664) "image\00\00\000.1.0\00\00\00Image\00\00\00")

  (func (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32)
    (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (br_if $fits
        (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits
        (i32.ne
          (memory.grow
            (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1)))
          (i32.const -1)))
      (unreachable))
    (local.get $at))

  (func (export "aligner:plugin/meta@0.1.1#describe") (result i32) (i32.const 65536))

  (func (export "aligner:plugin/meta@0.1.1#configure") (param $text i32) (param $length i32)
    (result i32)
    (local $from i32) (local $to i32) (local $end i32)
    (local.set $from (i32.add (local.get $text) (i32.const 1)))
    (local.set $end (i32.add (local.get $text) (local.get $length)))
    (block $done
      (loop $next
        (br_if $done
          (i32.ge_u (i32.add (local.get $from) (i32.const 1)) (local.get $end)))
        (br_if $done (i32.ge_u (local.get $to) (i32.const 65536)))
        (i32.store8 (local.get $to)
          (i32.or
            (i32.shl
              (i32.sub (i32.load8_u (local.get $from)) (i32.const 97))
              (i32.const 4))
            (i32.sub (i32.load8_u offset=1 (local.get $from)) (i32.const 97))))
        (local.set $from (i32.add (local.get $from) (i32.const 2)))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (br $next)))
    (global.set $logs (i32.eq (i32.load8_u (local.get $text)) (i32.const 76)))
    (if (result i32) (i32.eq (i32.load8_u (local.get $text)) (i32.const 99))
      (then (i32.const 0))
      (else (i32.const 66048))))

  (func $give (result i32)
    (if (global.get $logs)
      (then
        (call $log (i32.load (i32.const 256)) (i32.load (i32.const 260)) (i32.load (i32.const 264)))))
    (i32.const 0))

  (func (export "aligner:plugin/principle@0.1.1#catalogue") (result i32) (call $give))
  (func $batch (param i32 i32 i32 i32) (result i32) (call $give))
  (export "aligner:plugin/principle@0.1.1#render" (func $batch))
  (export "aligner:plugin/filter@0.1.1#filter" (func $batch))
  (export "aligner:plugin/set-filter@0.1.1#decide" (func $batch))
  (export "aligner:plugin/judge@0.1.1#judge" (func $batch))
  (export "aligner:plugin/difficulty@0.1.1#score" (func $batch))
  (func (export "aligner:plugin/set-filter@0.1.1#observe") (param i32 i32 i32 i32) (result i32)
    (i32.const 66048))
  (func (export "aligner:plugin/sampler@0.1.1#select") (param i32 i32 i32 i32 i64) (result i32)
    (call $give))
  (func $lists (param i32 i32 i32 i32 i32 i32) (result i32) (call $give))
  (export "aligner:plugin/sampler@0.1.1#equip" (func $lists))
  (export "aligner:plugin/prompt-writer@0.1.1#write" (func $lists)))
