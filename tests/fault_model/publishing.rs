//! How requests become groups in the model, and which find no room.

use super::*;

/// What one small write takes of a socket's send buffer.
const WRITE_COST: usize = 768;

impl Model {
    /// Reports requests up to the first that is refused: how many are taken, and why the next one is not.
    pub(crate) fn report_batch(&mut self, requests: &[FaultRequest]) -> (usize, Option<Refusal>) {
        // Groups that end in a batch share a write on a socket, as long as it has room. Half-made ones
        // leave their places with it.
        let mut joined = 0;
        self.leaving.clear();
        for (index, request) in requests.iter().enumerate() {
            let half = self.half_made_of(request);
            let pages = half.map_or(0, |index| self.half_made[index].pages) + 1;
            let is_cut = if request.last {
                joined + pages > self.most_of_write()
                    || half.is_some_and(|half| self.half_made[half].too_large)
            } else {
                half.is_none() && self.is_half_made_full(request.dev_id)
            };
            if is_cut {
                joined = 0;
                self.leaving.clear();
            }
            if let Err(refusal) = self.report_one(request, joined > 0, index == 0) {
                self.counters.refused += u64::from(index == 0);
                self.leaving.clear();
                return (index, Some(refusal));
            }
            if request.last {
                joined += pages;
                self.leaving.extend(half.map(|_| request.dev_id));
            }
        }
        self.leaving.clear();
        (requests.len(), None)
    }

    /// Whether no group of the device may begin. Those that left in this batch still count, and those whose
    /// completions are not collected.
    fn is_half_made_full(&self, dev_id: u32) -> bool {
        let half_made = self.half_made.iter().chain(&self.unfinished).map(|half| half.dev_id);
        let of_device = half_made.chain(self.leaving.iter().copied()).filter(|id| *id == dev_id).count();
        self.half_made.len() + self.leaving.len() + self.unfinished.len() == self.limits.half_made
            || of_device == self.limits.half_made.div_ceil(2)
    }

    /// Reports one request: the group that it completes, if it does.
    pub(crate) fn report(&mut self, request: &FaultRequest) -> Result<Option<usize>, Refusal> {
        let outcome = self.report_one(request, false, true);
        self.counters.refused += u64::from(outcome.is_err());
        outcome
    }

    /// What only the next call tells has no effect before.
    fn report_one(
        &mut self,
        request: &FaultRequest,
        joined: bool,
        is_told: bool,
    ) -> Result<Option<usize>, Refusal> {
        if request.pasid.is_some_and(|pasid| pasid >= 1 << 20) {
            return Err(Refusal::Pasid);
        }
        if request.prg_index >= 1 << 9 {
            return Err(Refusal::PrgIndex);
        }
        if !request.perm.intersects(PgFaultPerm::READ | PgFaultPerm::WRITE) {
            return Err(Refusal::Permission);
        }
        let found = self.half_made_of(request);
        if !request.last {
            return self.add_half_made(found, request, is_told).map(|()| None);
        }
        let Some(index) = found else {
            let mut addrs = [0; MOST_PAGES];
            addrs[0] = request.addr;
            return self.publish(request, addrs, 1, joined).map(Some);
        };
        if self.half_made[index].too_large {
            if is_told {
                self.half_made.remove(index);
            }
            return Err(Refusal::TooLarge);
        }
        let HalfMade { mut addrs, pages, .. } = self.half_made[index];
        addrs[pages] = request.addr;
        let handle = self.publish(request, addrs, pages + 1, joined)?;
        self.half_made.remove(index);
        Ok(Some(handle))
    }

    fn half_made_of(&self, request: &FaultRequest) -> Option<usize> {
        if self.half_made.is_empty() {
            return None;
        }
        self.half_made.iter().position(|half| {
            (half.dev_id, half.pasid, half.prg_index) == (request.dev_id, request.pasid, request.prg_index)
        })
    }

    fn add_half_made(
        &mut self,
        found: Option<usize>,
        request: &FaultRequest,
        is_told: bool,
    ) -> Result<(), Refusal> {
        if self.ended {
            return Err(Refusal::Closed);
        }
        let is_too_large = found.map_or(0, |index| self.half_made[index].pages) + 1 == self.limits.max_group;
        if is_too_large && !is_told {
            return Err(Refusal::TooLarge);
        }
        let index = match found {
            Some(index) => index,
            None if self.is_half_made_full(request.dev_id) => {
                return Err(if is_too_large { Refusal::TooLarge } else { Refusal::HalfMadeFull });
            }
            None => {
                let FaultRequest { dev_id, pasid, prg_index, .. } = *request;
                let (addrs, pages, too_large, time) = ([0; MOST_PAGES], 0, false, self.time);
                self.half_made.push(HalfMade { dev_id, pasid, prg_index, addrs, pages, too_large, time });
                self.half_made.len() - 1
            }
        };
        let half = &mut self.half_made[index];
        if is_too_large {
            half.too_large = true;
            return Err(Refusal::TooLarge);
        }
        half.addrs[half.pages] = request.addr;
        half.pages += 1;
        Ok(())
    }

    fn publish(
        &mut self,
        request: &FaultRequest,
        addrs: [u64; MOST_PAGES],
        pages: usize,
        joined: bool,
    ) -> Result<usize, Refusal> {
        if self.ended {
            return Err(Refusal::Closed);
        }
        if self.taken == self.limits.depth {
            return Err(Refusal::Full);
        }
        let of_device = self.of_device.entry(request.dev_id).or_insert(0);
        if *of_device > 0 && *of_device + pages > self.limits.per_device {
            return Err(Refusal::DeviceFull);
        }
        if self.responder_gone {
            return Err(Refusal::Closed);
        }
        let has_room = if self.limits.socket {
            joined || self.room_for_writes() > 0
        } else {
            self.unread_pages + pages <= self.limits.depth
        };
        if !has_room {
            return Err(Refusal::Full);
        }
        *self.of_device.get_mut(&request.dev_id).unwrap() += pages;
        self.taken += 1;
        self.published += 1;
        self.counters.unanswered += 1;
        self.unread_pages += pages;
        if self.limits.socket {
            self.write(pages, joined);
        }
        let group = Some(Group {
            dev_id: request.dev_id,
            pasid: request.pasid,
            prg_index: request.prg_index,
            addrs,
            pages,
            time: self.time,
            cookie: 0,
            place: Place::Unread,
            ending: None,
            collected: false,
            notice: Notice::None,
        });
        let handle = match self.free.pop() {
            Some(handle) => {
                self.groups[handle] = group;
                handle
            }
            None => {
                self.groups.push(group);
                self.groups.len() - 1
            }
        };
        self.unread.push_back(Unread::Group(handle));
        Ok(handle)
    }

    fn record_size(&self) -> usize {
        if self.limits.headed { 48 } else { 40 }
    }

    fn most_of_write(&self) -> usize {
        ((16 << 10) / self.record_size()).min(self.limits.depth)
    }

    /// What a write of so many records takes of the send buffer: the kernel rounds the data and its
    /// bookkeeping up to a power of two, and adds an `sk_buff`.
    pub(super) fn cost(&self, records: usize) -> usize {
        (records * self.record_size() + 320).next_power_of_two() + 256
    }

    pub(super) fn write(&mut self, records: usize, joined: bool) {
        let joined = self.writes.back().copied().filter(|_| joined);
        if let Some(write) = joined {
            self.writes.pop_back();
            self.charged -= self.cost(write.records);
        }
        let records = records + joined.map_or(0, |write| write.records);
        self.charged += self.cost(records);
        self.writes.push_back(Write { records, read: 0 });
    }

    /// How many small writes have room.
    pub(crate) fn room_for_writes(&self) -> usize {
        (self.limits.depth * WRITE_COST).saturating_sub(self.charged).div_ceil(WRITE_COST)
    }
}
